"""What of a step a restore takes, and under which names it was saved: restore()'s ``only`` and ``names``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import limits, tree
from .plan import Stored, stored_of_shard

Tree = Callable[[int], tuple[Any, list[dict[str, Any]], list[str], Callable[[str], bytes]]]
"""A saved rank's NODE, its tensors' records, its keys, and a reader of its objects."""

Names = Mapping[str, str] | Callable[[str], str | None]
"""From the name of a tensor in the state given to restore() to the one it was saved under: a mapping of names, or of patterns in
which each ``*`` stands for any text, and in what they map to for the same texts in their order; or a function, whose None leaves
the tensor as it is. Names that a mapping lacks are the same in both. ``rank-00003/NAME`` is what rank 3 saved as its own."""

_PRIVATE = re.compile(r"rank-(\d{5,})/(.+)", re.DOTALL)


class Choice:
    """Both, as questions.

    Args:
        names: see Names; None: every tensor of the state is looked for at its own place.
        only: patterns of paths as fnmatch has them; None: all.
    Raises:
        ValueError: a pattern that maps to more ``*`` than it has. TypeError: texts where a list of them, or a mapping, is meant.
    """

    def __init__(self, names: Names | None = None, only: Sequence[str] | None = None) -> None:
        if isinstance(only, str):
            raise TypeError(f"only is a list of patterns, as [{only!r}]")
        self.is_by_name = names is not None
        self.only = None if only is None else tuple(only)
        self._saved: Callable[[str], str | None] = _mapped(names) if isinstance(names, Mapping) else names or (lambda name: name)
        if not callable(self._saved):
            raise TypeError(f"names is a mapping or a function, not {names!r}")

    def takes(self, path: str) -> bool:
        return self.only is None or any(fnmatch.fnmatchcase(path, pattern) for pattern in self.only)

    def saved(self, name: str) -> str | None:
        """The name that the tensor ``name`` was saved under; None: leave it as it is."""
        return self._saved(name)


def _mapped(names: Mapping[str, str]) -> Callable[[str], str | None]:
    exact = {name: saved for name, saved in names.items() if "*" not in name}
    patterns = []
    for pattern, saved in names.items():
        if saved.count("*") > pattern.count("*"):
            raise ValueError(f"'{pattern}' has fewer * than '{saved}', which it maps to")
        if "*" in pattern:
            patterns.append((re.compile("(.*)".join(map(re.escape, pattern.split("*"))), re.DOTALL), saved.split("*")))

    def saved_as(name: str) -> str | None:
        if name in exact:
            return exact[name]
        for pattern, parts in patterns:
            found = pattern.fullmatch(name)
            if found is not None:
                return parts[0] + "".join(text + part for text, part in zip(found.groups(), parts[1:], strict=False))
        return name

    return saved_as


class Catalog:
    """The tensors of a step by their names; the daemon is asked when the first one is looked for.

    Args:
        describe: Describe of this step, with further parameters.
        ranks: those that saved, ascending.
        read: see Tree.
    """

    def __init__(self, describe: Callable[..., dict[str, Any]], ranks: list[int], read: Tree) -> None:
        self._describe = describe
        self._read = read
        self._unread = iter(ranks[: limits.ALIAS_TREES])
        self._aliases: dict[str, str] = {}
        self._about: dict[str, Any] | None = None
        self._shards: dict[str, dict[str, Any]] = {}

    @property
    def about(self) -> dict[str, Any]:
        """What Describe says of the step, each tensor once: a large world has thousands of boxes of each, and only types and whole
        shapes are needed."""
        if self._about is None:
            self._about = self._describe(once=True)
            for shard in self._about["shards"]:
                if not shard.get("private"):
                    self._shards.setdefault(shard["name"], shard)
        return self._about

    def find(self, name: str) -> Stored | None:
        """A tensor that belongs to all ranks, or one of a single rank's own, as ``rank-00003/NAME``. Of tied weights, which are
        stored once, each name finds them."""
        private = _PRIVATE.fullmatch(name)
        if private is None:
            known = name if self.about and name in self._shards else self._alias(name)
            return None if known is None else stored_of_shard(self._shards[known], None)
        rank, own = int(private[1]), private[2]
        for shard in self._describe(names=[own])["shards"]:
            if shard["name"] == own and shard["rank"] == rank and shard.get("private"):
                return stored_of_shard(shard, rank)
        return None

    def _alias(self, name: str) -> str | None:
        """The name under which some rank stored the memory that it had under this one too."""
        while name not in self._aliases:
            rank = next(self._unread, None)
            if rank is None:
                return None
            root, records, _, _ = self._read(rank)
            for path, record in zip(tree.stored_names(root), records, strict=True):
                if path != record["name"] and record["name"] in self._shards:
                    self._aliases.setdefault(path, record["name"])
        return self._aliases[name]

    @property
    def names(self) -> list[str]:
        """Of all tensors that belong to all ranks."""
        return list(self._shards) if self.about else []
