"""How a saved tree and the state given to restore() fit together: which bytes go where, and what is set once all are there.

Nothing of the state is changed here, nor while the plan is made. Bytes go into tensors in place; plain values are set, containers
filled and load_state_dict() called by ``apply``, after all ranks have loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import dtypes, jax_arrays, limits, placement, tensors, tree
from .errors import Mismatch, UnsupportedTensor
from .scopes import Values

if TYPE_CHECKING:
    from .choice import Choice

_MISSING: Any = object()

NEAR = -1
"""The source of a target that this very rank saved, so that its own node may have it; else the rank that did."""


class Only(dict[Any, Any]):
    """A dict that takes only the keys that it has from a step; any other one is given what it lacks."""


@dataclass(slots=True)
class Target:
    """A box of a stored tensor and the memory it goes to. ``offsets`` of None: the whole; one of them, of a tensor that has not one
    dimension: a range of its elements. ``bytes`` are the stored ones. ``keep`` has the memory; ``cast``: it is a dense tensor of
    another dtype, or of another device than the CPU, and they are converted into it."""

    name: str
    rank: int | None
    dtype: str
    offsets: tuple[int, ...] | None
    shape: tuple[int, ...]
    address: int
    keep: Any
    bytes: int
    source: int = NEAR
    cast: bool = False


@dataclass
class Plan:
    """What one restore does, in order: load ``targets``, ``fills``, and after agreement ``sets`` and ``loads``; and what does not
    fit.

    ``missing``: the state's tensors that were not saved, with the names that they were looked for. ``different``: how others
    differ. ``unexpected``: tensors that were saved and are not in the state. ``skipped``: tensors that were single ranks' own.
    """

    targets: list[Target] = field(default_factory=list)
    fills: list[tuple[Any, Any]] = field(default_factory=list)
    sets: list[tuple[Any, Any, Any]] = field(default_factory=list)
    loads: list[tuple[Any, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        looked = {name: f" as '{saved}'" if saved != name else "" for name, saved in self.missing.items()}
        return self.different + [f"tensor '{name}' was not saved{where}" for name, where in looked.items()]

    def check(self, strict: bool) -> None:
        """Raise Mismatch for what does not fit, unless the caller wants what does."""
        problems = self.problems
        if problems and strict:
            text = f"the state does not fit what was saved: {some(problems, '; ')}. strict=False restores what fits"
            raise Mismatch(text, missing=list(self.missing), different=self.different)

    def notes(self) -> list[str]:
        """What of it the caller should be told, a line for each kind."""
        lines = [some(self.problems, "; ")] if self.problems else []
        if self.skipped:
            lines.append(f"not restored, for they were saved as single ranks' own: {some(self.skipped)}")
        if self.unexpected:
            lines.append(f"{len(self.unexpected)} tensors were saved and are not in the state: {some(self.unexpected)}")
        return lines

    def finish_bytes(self) -> None:
        for tensor, buffer in self.fills:
            tensors.fill(tensor, buffer)

    def apply(self) -> None:
        for container, key, value in self.sets:
            container[key] = jax_arrays.settled(value)
        for stateful, state in self.loads:
            stateful.load_state_dict(jax_arrays.settled(state))


def some(texts: Sequence[str], separator: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = f"{separator}and {len(texts) - limits.NAMES_SHOWN} more" if len(texts) > limits.NAMES_SHOWN else ""
    return separator.join(texts[: limits.NAMES_SHOWN]) + more


@dataclass(frozen=True)
class Stored:
    """One stored tensor: dtype, the whole's shape, and whose it is where it is private."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    rank: int | None
    distributed: bool
    source: int = NEAR


def stored_of_record(record: Mapping[str, Any], rank: int) -> Stored:
    whole = record.get("globalShape", record["shape"])
    private = bool(record.get("private", False))
    return Stored(
        record["name"], record["kind"], record["dtype"], tuple(whole), rank if private else None,
        "globalShape" in record or bool(record.get("distributed", False)),
        NEAR if record.get("owner", rank) == rank else int(record["owner"]),
    )  # fmt: skip


def stored_of_shard(shard: Mapping[str, Any], rank: int | None) -> Stored:
    """As Describe has it; ``rank``: whose own it is."""
    whole = shard["shape"] if shard.get("globalShape") is None else shard["globalShape"]
    return Stored(shard["name"], "torch", shard["dtype"], tuple(whole), rank, True, NEAR if rank is None else rank)


Find = Callable[[str], Stored | None]
"""A stored tensor by the name that it was saved under."""


class Planner:
    """Makes the plan for one state.

    Args:
        choice: which tensors and values, under which names; default: all, under their own.
        cast: numbers of another precision are converted, and no problem.
    """

    def __init__(self, choice: Choice | None = None, *, cast: bool = False) -> None:
        self.plan = Plan()
        self.found: set[str] = set()
        """The names of the stored tensors that the plan has looked at."""
        self._choice = choice
        self._cast = cast
        self._first: dict[tuple[Any, ...], tuple[int, Any]] = {}
        self._created: dict[str, Any] = {}
        self._classes = tree.leaf_classes()
        self._jax = jax_arrays.array_class()
        self._new: dict[int, Any] | None = None
        """What takes the place of jax's arrays, by their ids, where the plan is made by names."""

    def merge(
        self,
        state: Any,
        root: Any,
        records: Iterator[Stored],
        values: Values,
        decode: Callable[[Any], Any],
        find: Find = lambda name: None,
    ) -> None:
        """Plan for a state whose own tree was stored: by the places of tensors and values in it. What has no place there may be a
        tensor that belongs to all ranks. Where the caller names names, only values are planned."""
        self._records, self._values, self._decode = records, values, decode
        self._lost: list[tuple[str, Any]] = []
        self._merge(state, root, "")
        for name, tensor in self._lost:
            self._find(name, name, tensor, find)

    def by_name(self, state: Any, find: Find) -> None:
        """Plan for tensors only, by their names."""
        flat = tree.flatten(state)
        self._new = {}
        for name, tensor in zip(tree.Outline(flat.tokens).names, flat.tensors, strict=True):
            if self._takes(name):
                saved = name if self._choice is None else self._choice.saved(name)
                if saved is not None:
                    self._find(name, saved, tensor, find)
        if self._new:
            self._replace(state, self._new)

    def _replace(self, node: Any, new: dict[int, Any]) -> Any:
        """Plan to put what takes an array's place, by the array's id, into the containers of a state."""
        if id(node) in new:
            return new[id(node)]
        if isinstance(node, MutableMapping) and not tree.is_stateful(node):
            pairs = list(node.items())
        elif isinstance(node, list):
            pairs = list(enumerate(node))
        elif isinstance(node, tuple):
            return _like(node, [self._replace(child, new) for child in node])
        elif tree.is_stateful(node) and not isinstance(node, self._classes):
            before, state = len(self.plan.sets), node.state_dict()
            merged = self._replace(state, new)
            if merged is not state or len(self.plan.sets) > before:
                self.plan.loads.append((node, merged))
            return node
        else:
            return node
        for key, child in pairs:
            other = self._replace(child, new)
            if other is not child:
                self.plan.sets.append((node, key, other))
        return node

    def _find(self, name: str, saved: str, tensor: Any, find: Find) -> None:
        stored = find(saved)
        is_jax = isinstance(tensor, jax_arrays.View)
        if stored is not None and is_jax and self._new is not None:
            self._new[id(tensor.array)] = self._anew(tensor.array, stored, name)
        elif stored is not None and not is_jax:
            self._into(tensor, stored, name)
        elif tensors.count(placement.box_of(tensor)[0]):  # of nothing there may be no shard
            self.plan.missing[name] = saved

    def _takes(self, path: str) -> bool:
        return self._choice is None or self._choice.takes(path)

    def _merge(self, current: Any, node: Any, path: str) -> Any:
        if node == "t":
            return self._tensor(current, next(self._records), path)
        if tree.is_value(node):
            value = self._values.take(node)
            if not self._takes(path or "value"):
                return current
            if isinstance(current, self._classes):
                self.plan.different.append(f"'{path}' is a tensor, but {type(value).__name__} was saved")
                return current
            return value
        kind = node[0]
        if kind == "state" or (kind == "dict" and not isinstance(current, Mapping) and tree.is_stateful(current)):
            child = node[1] if kind == "state" else node
            if isinstance(current, Mapping) or not tree.is_stateful(current):
                return self._merge(current, child, path)
            before = len(self.plan.sets)
            state = current.state_dict()
            merged = self._merge(state, child, path)
            if merged is not state or len(self.plan.sets) > before:
                self.plan.loads.append((current, merged))
            return current
        if kind == "dict":
            return self._dict(current, node, path)
        return self._sequence(current, node, path)

    def _dict(self, current: Any, node: Any, path: str) -> Any:
        keys = [self._decode(key) for key in node[1]]
        if not isinstance(current, MutableMapping):
            made = {key: self._merge(_MISSING, child, tree.join(path, key)) for key, child in zip(keys, node[2], strict=True)}
            new = {key: child for key, child in made.items() if child is not _MISSING}
            if made and not new:
                return current
            if current is not _MISSING and current is not None:
                self.plan.different.append(f"'{path}' is a {type(current).__name__}, but a dict was saved")
            return new
        for key, child in zip(keys, node[2], strict=True):
            old = current.get(key, _MISSING)
            if old is _MISSING and isinstance(current, Only):
                self._pass_over(child)
                continue
            new = self._merge(old, child, tree.join(path, key))
            if new is not old:
                self.plan.sets.append((current, key, new))
        for key in current.keys() - set(keys):
            self._unsaved(current[key], tree.join(path, key))
        return current

    def _pass_over(self, node: Any) -> None:
        """Leave out a part of the stored tree."""
        if node == "t":
            next(self._records)
        elif tree.is_value(node):
            self._values.take(node)
        else:
            for child in node[2] if node[0] == "dict" else [node[1]] if node[0] == "state" else node[1]:
                self._pass_over(child)

    def _sequence(self, current: Any, node: Any, path: str) -> Any:
        nodes = node[1]
        old = list(current) if isinstance(current, list | tuple) else []
        new = [
            self._merge(old[index] if index < len(old) else _MISSING, child, tree.join(path, index))
            for index, child in enumerate(nodes)
        ]
        if any(child is _MISSING for child in new[len(old) :]):
            if not isinstance(current, list | tuple):
                return current
            del new[len(old) :]
        for index in range(len(nodes), len(old)):
            self._unsaved(old[index], tree.join(path, index))
        same = len(new) == len(old) and all(left is right for left, right in zip(new, old, strict=True))
        if node[0] == "list":
            if isinstance(current, list):
                if not same:
                    self.plan.sets.append((current, slice(None), new))
                return current
            return new
        return _like(current, new) if isinstance(current, tuple) else tuple(new)

    def _unsaved(self, node: Any, path: str) -> None:
        """What the state holds and this tree does not: plain values stay, tensors are looked for elsewhere."""
        flat = tree.flatten(node)
        for name, tensor in zip(tree.Outline(flat.tokens).names, flat.tensors, strict=True):
            where = path if name == "value" else f"{path}.{name}"
            if self._takes(where) and not self._is_by_name:
                self._lost.append((where, tensor))

    @property
    def _is_by_name(self) -> bool:
        return self._choice is not None and self._choice.is_by_name

    def _tensor(self, current: Any, stored: Stored, path: str) -> Any:
        if self._is_by_name or not self._takes(path or "value"):
            return current
        if self._jax is not None and isinstance(current, self._jax):
            return self._anew(current, stored, path)
        if isinstance(current, self._classes):
            self._into(current, stored, path)
            return current
        if current is not _MISSING and current is not None:
            self.plan.different.append(f"'{path}' is a {type(current).__name__}, but a tensor was saved")
            return current
        if stored.distributed:  # which part of it this rank wants, only a tensor of the state can say
            self.plan.unexpected.append(path)
            return current
        made = self._created.get(stored.name)
        if made is None:
            made = self._created[stored.name] = tensors.empty(stored.kind, stored.dtype, stored.shape)
            self._into(made, stored, path)
        return made

    def _anew(self, array: Any, stored: Stored, path: str) -> Any:
        """Plan for a jax.Array that takes the place of ``array``."""
        whole = tuple(array.shape)
        if whole != stored.shape:
            self.plan.different.append(f"array '{path}' is {list(whole)}, but {list(stored.shape)} was saved")
            return array
        later = jax_arrays.Later(array)
        told = len(self.plan.different) + 1
        for (offsets, shape), buffer in zip(later.boxes, later.buffers, strict=True):
            self._into(buffer, stored, path, (whole, offsets, shape))
            del self.plan.different[told:]  # of another dtype, all its parts are
        return later

    def _into(self, tensor: Any, stored: Stored, path: str, part: tuple[Any, Any, Any] | None = None) -> None:
        """Plan to put a stored tensor's bytes, or the box that a DTensor or FlatShard holds of it, into ``tensor``; ``part``: the
        whole's shape, offsets and shape of what ``tensor`` is to hold, where it does not say that itself."""
        self.found.add(stored.name)
        local = placement.resolve(tensor)
        device = getattr(getattr(local, "device", None), "type", "cpu")
        if device not in tensors.DEVICES and not isinstance(local, _ndarray()):
            raise UnsupportedTensor(
                f"tensor '{path}' is on '{device}': this version restores into tensors of {' and '.join(tensors.DEVICES)}"
            )
        if part is None:
            placement.check(path, tensor)
        whole, offsets, shape = part or placement.box_of(tensor)
        if whole != stored.shape:
            self.plan.different.append(f"tensor '{path}' is {list(whole)}, but {list(stored.shape)} was saved")
            return
        if isinstance(tensor, _ndarray()) and not tensor.flags["WRITEABLE"]:
            self.plan.different.append(f"array '{path}' is read-only")
            return
        dtype = dtypes.of_numpy(tensor.dtype) if isinstance(tensor, _ndarray()) else dtypes.of_torch(local.dtype)
        size = tensors.count(shape) * dtypes.BYTES[stored.dtype]
        cast = dtype != stored.dtype
        if cast and not (self._cast and dtype is not None and dtypes.can_cast(stored.dtype, dtype)):
            self.plan.different.append(f"tensor '{path}' is {dtype}, but {stored.dtype} was saved")
        if (cast or device != "cpu") and not tensors.can_convert(local, stored.dtype):
            raise UnsupportedTensor(f"tensor '{path}' was saved as {stored.dtype}, which this library cannot convert to {dtype}")
        if size == 0:
            return
        address, buffer = tensors.writer(tensor)
        key = (stored.name, stored.rank, offsets, shape, dtype)
        first = self._first.get(key)
        if first is not None:  # tied: loaded once, copied to the others unless it is the same memory
            if buffer is not None or first[0] != address:
                self.plan.fills.append((tensor, first[1]))
            return
        source = local if buffer is None else buffer
        converts = cast or (device != "cpu" and buffer is None)
        self._first[key] = (address, source)
        box = None if shape == whole else offsets
        self.plan.targets.append(
            Target(stored.name, stored.rank, stored.dtype, box, shape, address, source, size, stored.source, converts)
        )
        if buffer is not None:
            self.plan.fills.append((tensor, buffer))


def _ndarray() -> Any:
    return getattr(sys.modules.get("numpy"), "ndarray", ())


def _like(node: Any, items: list[Any]) -> Any:
    """The tuple itself where it has these very items, else another, of its class if that has names."""
    if len(items) == len(node) and all(left is right for left, right in zip(items, node, strict=True)):
        return node
    return type(node)._make(items) if hasattr(type(node), "_make") and len(items) == len(node) else tuple(items)


def rows(shape: Sequence[int], offsets: Sequence[int], item: int, limit: int) -> Iterator[tuple[list[int], list[int], int]]:
    """Cut a box into boxes of at most ``limit`` bytes that follow one another in row-major order.

    Yields (offsets, shape, bytes) of each; ``item`` is an element's bytes, at most ``limit``.
    """
    size = tensors.count(shape) * item
    if size <= limit:
        yield list(offsets), list(shape), size
        return
    dimension = next(index for index, length in enumerate(shape) if length > 1)
    row = size // shape[dimension]
    step = max(1, limit // row)
    for begin in range(0, shape[dimension], step):
        part = list(shape)
        part[dimension] = min(step, shape[dimension] - begin)
        place = list(offsets)
        place[dimension] += begin
        if step == 1:
            yield from rows(part, place, item, limit)
        else:
            yield place, part, tensors.count(part) * item
