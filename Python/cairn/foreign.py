"""The plan of a restore by a rank that has no part of its own in the step: saved by another number of ranks, or without this one.

What belongs to all is found by name: tensors that are parts of a whole or replicated, shared values, and the values of this rank's
keys. What was some rank's own is skipped or merged, as the caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from . import errors, scopes, tree
from .choice import Catalog, Choice, Tree
from .pickles import AllowPickle
from .plan import Plan, Planner
from .scopes import Values

Objects = str | Callable[[list[Any]], Any]
"""What to do with values that were some rank's own: "own" (refuse where there are any), "skip" them, or a function that is given
the plain values of every saved rank's tree, in rank order, and returns those to set."""

ABSENT: Any = object()
"""Stands in a pruned tree where nothing is to be set."""


class Foreign:
    """Makes that plan.

    Args:
        catalog: the step's tensors.
        ranks: those that saved, ascending.
        read: see Tree.
        choice: which tensors and values, under which names.
    """

    def __init__(
        self,
        step: int,
        catalog: Catalog,
        ranks: list[int],
        read: Tree,
        choice: Choice,
        decode: Callable[[Any], Any],
        allow: AllowPickle,
    ) -> None:
        self._step = step
        self._catalog = catalog
        self._ranks = ranks
        self._read = read
        self._choice = choice
        self._decode = decode
        self._allow = allow

    def plan(self, planner: Planner, state: Any, objects: Objects, keys: list[str], why: str) -> None:
        """Fill ``planner``'s plan for ``state``. ``why`` says in what the step differs from this job.

        Raises:
            WorldSizeChanged: something was a rank's own, and ``objects`` does not say what to do with it.
        """
        about = self._catalog.about
        root, _, _, read = self._read(self._ranks[0])
        private = {shard["name"] for shard in about["shards"] if shard.get("private") and self._choice.takes(shard["name"])}
        own = {item["rank"] for item in about["objects"] if item["name"] == tree.VALUES and int(item["bytes"]) > len("[]")}
        if own and self._choice.only is not None and not self._takes_own(min(own)):
            own = set()
        if objects == "own" and (own or private):
            what = f"plain values of rank {min(own)}" if own else f"tensor '{min(private)}'"
            raise errors.WorldSizeChanged(
                f'step {self._step} {why}, and holds what is a single rank\'s own ({what}): pass objects="skip" to restore the '
                "rest, or a function that merges the ranks' plain values; what is equal on all ranks is better saved with "
                "Checkpointer(shared=…, replicated=…)"
            )
        planner.by_name(state, self._catalog.find)
        plan = planner.plan
        plan.skipped = [name for name, saved in plan.missing.items() if saved in private]
        plan.missing = {name: saved for name, saved in plan.missing.items() if saved not in private}
        if callable(objects):
            own_values = self._values(self._ranks)
            trees = [pruned(each, values, self._decode, lambda node: True, absent=None) for each, values in own_values]
            overlay(plan, state, objects(trees))
        self._set(planner, state, root, Values(root, read, self._allow, scopes.SHARED), lambda node: node == scopes.SHARED)
        for key in keys:
            self._keyed(planner, state, key)

    def _takes_own(self, rank: int) -> bool:
        """Whether a rank's own values are among what the caller wants."""
        root, _, _, _ = self._read(rank)
        return any(node == "v" and self._choice.takes(path) for node, path in tree.stored_paths(root))

    def _values(self, ranks: list[int]) -> Iterator[tuple[Any, Values]]:
        for rank in ranks:
            root, _, _, read = self._read(rank)
            yield root, Values(root, read, self._allow)

    def _keyed(self, planner: Planner, state: Any, key: str) -> None:
        objects = self._catalog.about["objects"]
        holders = [int(item["rank"]) for item in objects if item.get("key") == key and item["scope"] == "keyed"]
        if not holders:
            planner.plan.different.append(f"no values of key '{key}' were saved")
            return
        root, _, keys, read = self._read(min(holders))
        node = ["k", keys.index(key)]
        self._set(planner, state, root, Values(root, read, self._allow, node), lambda found: found == node)

    def _set(self, planner: Planner, state: Any, root: Any, values: Values, wanted: Callable[[Any], bool]) -> None:
        overlay(planner.plan, state, pruned(root, values, self._decode, wanted, self._choice.takes))


def overlay(plan: Plan, state: Any, values: Any) -> None:
    """Plan to set the plain values of a pruned or merged tree in ``state``: what is a tensor, there or here, is left alone."""
    if isinstance(state, MutableMapping) and isinstance(values, Mapping):
        pairs = [(key, state.get(key), value) for key, value in values.items()]
    elif isinstance(state, list) and isinstance(values, list) and len(state) == len(values):
        pairs = list(zip(range(len(state)), state, values, strict=True))
    else:
        return
    classes = tree.leaf_classes()
    for key, old, value in pairs:
        both_lists = isinstance(value, list) and isinstance(old, list) and len(value) == len(old)
        if (isinstance(value, Mapping) and isinstance(old, MutableMapping)) or both_lists:
            overlay(plan, old, value)
        elif isinstance(value, Mapping) and old is not None and tree.is_stateful(old):
            own, before = old.state_dict(), len(plan.sets)
            overlay(plan, own, value)
            if len(plan.sets) > before:
                plan.loads.append((old, own))
        elif not isinstance(old, classes) and not tree.is_stateful(old):
            present = _present(value)
            if present is not ABSENT and present is not None:
                plan.sets.append((state, key, present))


def _present(value: Any) -> Any:
    """``value`` without what is absent in it; ABSENT where nothing is left, or a sequence would have holes."""
    if isinstance(value, Mapping):
        found = {key: item for key, item in ((key, _present(item)) for key, item in value.items()) if item is not ABSENT}
        return found if found or not value else ABSENT
    if isinstance(value, list | tuple) and any(_present(item) is ABSENT for item in value):
        return ABSENT
    return value


def pruned(
    root: Any,
    values: Values,
    decode: Callable[[Any], Any],
    wanted: Callable[[Any], bool],
    takes: Callable[[str], bool] = lambda path: True,
    *,
    absent: Any = ABSENT,
    tensor: Callable[[], Any] | None = None,
    path: str = "",
) -> Any:
    """A stored tree with the values of the ``wanted`` NODEs at the paths that it ``takes``; ``absent`` stands in the places of
    others, and in those of tensors where ``tensor`` does not give the next one."""
    if root == "t":
        return absent if tensor is None else tensor()
    if tree.is_value(root):
        if not wanted(root):
            return absent
        value = values.take(root)  # whether it is used or not: they come in their order
        return value if takes(path or "value") else absent

    def child(node: Any, name: object = None) -> Any:
        place = path if name is None else tree.join(path, name)
        return pruned(node, values, decode, wanted, takes, absent=absent, tensor=tensor, path=place)

    if root[0] == "state":
        return child(root[1])
    if root[0] == "dict":
        names = [decode(key) for key in root[1]]
        return {name: child(node, name) for name, node in zip(names, root[2], strict=True)}
    items = [child(node, index) for index, node in enumerate(root[1])]
    return items if root[0] == "list" else tuple(items)
