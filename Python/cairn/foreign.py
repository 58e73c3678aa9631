"""The plan of a restore by a rank that has no part of its own in the step: saved by another number of ranks, or without this one.

What belongs to all is found by name: tensors that are parts of a whole or replicated, shared values, and the values of this rank's
keys. What was some rank's own is skipped or merged, as the caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from . import errors, scopes, tree
from .pickles import AllowPickle
from .plan import Planner, Stored
from .scopes import Values

Objects = str | Callable[[list[Any]], Any]
"""What to do with values that were some rank's own: "own" (refuse where there are any), "skip" them, or a function that is given
the plain values of every saved rank's tree, in rank order, and returns those to set."""

Tree = Callable[[int], tuple[Any, list[dict[str, Any]], list[str], Callable[[str], bytes]]]
"""A saved rank's NODE, its tensors' records, its keys, and a reader of its objects."""


ABSENT: Any = object()
"""Stands in a pruned tree where nothing is to be set."""


class Foreign:
    """Makes that plan.

    Args:
        about: what Describe says of the whole step.
        ranks: those that saved, ascending.
        read: see Tree.
    """

    def __init__(
        self, step: int, about: dict[str, Any], ranks: list[int], read: Tree, decode: Callable[[Any], Any], allow: AllowPickle
    ) -> None:
        self._step = step
        self._about = about
        self._ranks = ranks
        self._read = read
        self._decode = decode
        self._allow = allow

    def plan(self, planner: Planner, state: Any, objects: Objects, keys: list[str], why: str) -> None:
        """Fill ``planner``'s plan for ``state``. ``why`` says in what the step differs from this job.

        Raises:
            WorldSizeChanged: something was a rank's own, and ``objects`` does not say what to do with it.
        """
        private = {shard["name"] for shard in self._about["shards"] if shard.get("private")}
        own = {item["rank"] for item in self._about["objects"] if item["name"] == tree.VALUES and int(item["bytes"]) > len("[]")}
        if objects == "own" and (own or private):
            what = f"plain values of rank {min(own)}" if own else f"tensor '{min(private)}'"
            raise errors.WorldSizeChanged(
                f'step {self._step} {why}, and holds what is a single rank\'s own ({what}): pass objects="skip" to restore the '
                "rest, or a function that merges the ranks' plain values; what is equal on all ranks is better saved with "
                "Checkpointer(shared=…, replicated=…)"
            )
        root, records, _, read = self._read(self._ranks[0])
        names = dict(zip(tree.stored_names(root), (record["name"] for record in records), strict=True))
        found: dict[str, Stored] = {}
        for shard in self._about["shards"]:
            if not shard.get("private"):
                shape = shard.get("globalShape") or shard["shape"]
                found.setdefault(shard["name"], Stored(shard["name"], "torch", shard["dtype"], tuple(shape), None, True))
        planner.by_name(state, lambda name: found.get(names.get(name, name)))
        mine = {f"tensor '{name}' was not saved" for name in private}
        planner.plan.skipped = [
            f"{text} as a part of a whole, but as single ranks' own" for text in planner.plan.problems if text in mine
        ]
        planner.plan.problems = [text for text in planner.plan.problems if text not in mine]
        if callable(objects):
            trees = [pruned(each, values, self._decode, lambda node: True, None) for each, values in self._values(self._ranks)]
            planner.plan.sets += overlay(state, objects(trees))
        self._set(planner, state, root, Values(root, read, self._allow, scopes.SHARED), lambda node: node == scopes.SHARED)
        for key in keys:
            self._keyed(planner, state, key)

    def _values(self, ranks: list[int]) -> Iterator[tuple[Any, Values]]:
        for rank in ranks:
            root, _, _, read = self._read(rank)
            yield root, Values(root, read, self._allow)

    def _keyed(self, planner: Planner, state: Any, key: str) -> None:
        holders = [int(item["rank"]) for item in self._about["objects"] if item.get("key") == key and item["scope"] == "keyed"]
        if not holders:
            planner.plan.problems.append(f"no values of key '{key}' were saved")
            return
        root, _, keys, read = self._read(min(holders))
        node = ["k", keys.index(key)]
        self._set(planner, state, root, Values(root, read, self._allow, node), lambda found: found == node)

    def _set(self, planner: Planner, state: Any, root: Any, values: Values, wanted: Callable[[Any], bool]) -> None:
        planner.plan.sets += overlay(state, pruned(root, values, self._decode, wanted))


def overlay(state: Any, values: Any) -> list[tuple[Any, Any, Any]]:
    """Where the plain values of a pruned or merged tree go in ``state``: what is a tensor, there or here, is left alone."""
    sets: list[tuple[Any, Any, Any]] = []
    if isinstance(state, MutableMapping) and isinstance(values, Mapping):
        pairs = [(key, state.get(key), value) for key, value in values.items()]
    elif isinstance(state, list) and isinstance(values, list) and len(state) == len(values):
        pairs = list(zip(range(len(state)), state, values, strict=True))
    else:
        return sets
    classes = tree.leaf_classes()
    for key, old, value in pairs:
        both_lists = isinstance(value, list) and isinstance(old, list) and len(value) == len(old)
        if (isinstance(value, Mapping) and isinstance(old, MutableMapping)) or both_lists:
            sets += overlay(old, value)
        elif not isinstance(old, classes) and not tree.is_stateful(old):
            present = _present(value)
            if present is not ABSENT and present is not None:
                sets.append((state, key, present))
    return sets


def _present(value: Any) -> Any:
    """``value`` without what is absent in it; ABSENT where nothing is left, or a sequence would have holes."""
    if isinstance(value, Mapping):
        found = {key: item for key, item in ((key, _present(item)) for key, item in value.items()) if item is not ABSENT}
        return found if found or not value else ABSENT
    if isinstance(value, list | tuple) and any(_present(item) is ABSENT for item in value):
        return ABSENT
    return value


def pruned(root: Any, values: Values, decode: Callable[[Any], Any], wanted: Callable[[Any], bool], absent: Any = ABSENT) -> Any:
    """A stored tree with the values of the ``wanted`` NODEs; ``absent`` stands in the places of others and of tensors."""
    if root == "t":
        return absent
    if tree.is_value(root):
        return values.take(root) if wanted(root) else absent
    if root[0] == "state":
        return pruned(root[1], values, decode, wanted, absent)
    if root[0] == "dict":
        children = [pruned(child, values, decode, wanted, absent) for child in root[2]]
        return {decode(key): child for key, child in zip(root[1], children, strict=True)}
    items = [pruned(child, values, decode, wanted, absent) for child in root[1]]
    return items if root[0] == "list" else tuple(items)
