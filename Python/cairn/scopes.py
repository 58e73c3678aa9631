"""Whose plain values are: equal on all ranks, a key's, or a rank's own; and how they are stored and found again.

    shared    equal on all ranks, which the daemon checks; restored by any number of ranks
    keyed     of a part of the job that ranks come and go for, as a data loader's state of its data-parallel rank: restored by the
              rank that names the same key, whatever its number and the world's size
    rank      one rank's own, the default: restored by the same rank of a world of the same size

The values of each scope are one object: a list in walk order, and another object with what had to be pickled.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import pickles, tree

Shared = bool | Sequence[str]
Keyed = Mapping[str, str]

SHARED = "s"
"""The NODE of a shared value; a keyed one is ["k", number], the number of its key in the tree's "keys"; others are "v"."""


@dataclass(frozen=True)
class Stored:
    """An object to store: its scope as the wire has it, and where that is keyed, the key."""

    name: str
    scope: str
    key: str | None
    data: bytes


def names_of(node: Any) -> tuple[str, str]:
    """The objects that hold the values of this NODE's scope: as JSON, and pickled."""
    if node == "v":
        return tree.VALUES, tree.PICKLE
    stem = "cairn.shared" if node == SHARED else f"cairn.keyed.{node[1]}"
    return f"{stem}.values", f"{stem}.pickle"


MOST_KEYS = 8
"""Keys of one rank: a restore asks for the objects of all of them by name."""

NAMES = [name for node in ("v", SHARED, *(["k", number] for number in range(MOST_KEYS))) for name in names_of(node)]


class Scopes:
    """The caller's rules, by patterns of paths as fnmatch has them.

    Args:
        shared: True (all that are not keyed), or patterns.
        keyed: from patterns to this rank's keys.
    """

    def __init__(self, shared: Shared = False, keyed: Keyed | None = None) -> None:
        self._shared = shared if isinstance(shared, bool) else tuple(shared)
        self._keyed = dict(keyed or {})
        self.keys = sorted(set(self._keyed.values()))
        if len(self.keys) > MOST_KEYS or not all(isinstance(key, str) and key for key in self.keys):
            raise ValueError(f"keyed is at most {MOST_KEYS} different texts by patterns of names, not {self._keyed!r}")

    def node_of(self, path: str) -> Any:
        """The NODE of the value at ``path``."""
        for pattern, key in self._keyed.items():
            if fnmatch.fnmatchcase(path, pattern):
                return ["k", self.keys.index(key)]
        if isinstance(self._shared, bool):
            return SHARED if self._shared else "v"
        return SHARED if any(fnmatch.fnmatchcase(path, pattern) for pattern in self._shared) else "v"

    def encode(self, values: list[Any], outline: tree.Outline) -> list[Stored]:
        """The objects of one save; a scope without values has none."""
        groups: dict[tuple[str, str], tuple[Any, list[int]]] = {}
        for index, node in enumerate(outline.nodes):
            groups.setdefault(names_of(node), (node, []))[1].append(index)
        objects = []
        for (plain_name, pickle_name), (node, indexes) in groups.items():
            scope = "rank" if node == "v" else "shared" if node == SHARED else "keyed"
            key = self.keys[node[1]] if scope == "keyed" else None
            chosen = [values[index] for index in indexes]
            paths = [outline.paths[index] for index in indexes]
            data, pickled = tree.encode_values(chosen, paths)
            objects.append(Stored(plain_name, scope, key, data))
            if pickled:
                objects.append(Stored(pickle_name, scope, key, pickled))
        return objects


Read = Callable[[str], bytes]
"""An object of one rank by name; empty where it has none."""


class Values:
    """The values of one stored tree, to be taken in walk order; with ``only``, those of one scope."""

    def __init__(self, root: Any, read: Read, allow: pickles.AllowPickle, only: Any = None) -> None:
        self._found: dict[tuple[str, str], Iterator[Any]] = {}
        for node in tree.value_nodes(root):
            names = names_of(node)
            if names not in self._found and only in (None, node):
                data, pickled = read(names[0]), read(names[1])
                self._found[names] = iter(tree.decode_values(data or b"[]", pickled, allow))

    def take(self, node: Any) -> Any:
        """The next value of the NODE's scope."""
        return next(self._found[names_of(node)])
