"""What one save sends: the layout to register, and the objects of this very save.

The layout is kept from save to save. Each save compares all sources with it (address, shape, strides, dtype of every tensor, and
the shape of the containers) and makes it anew on any difference: stale addresses would save old weights without a word.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol

from . import dtypes, limits, placement, replicas, tensors, tree
from .guard import Guard, Lazy, named_lazy
from .replicas import Group
from .scopes import Scopes, Stored
from .streams import Copies, Source, Stream
from .tensors import Leaf

Replicated = bool | Sequence[str] | Mapping[str, Sequence[int]] | Callable[[str], bool]
Ranks = tuple[int, ...] | range
"""The ranks that take part in a save, ascending."""


class Layout:
    """One registered set of sources. ``leaves`` are in walk order, aliases included; ``stored`` has each memory once, and of
    equal copies only those that this rank writes."""

    def __init__(self, flat: tree.Flat, lazy: Lazy, guarded: tuple[object, ...], ranks: Ranks, scopes: Scopes) -> None:
        self.tokens = flat.tokens
        self.ranks = ranks
        self.lazy = lazy if lazy is None or isinstance(lazy, bool) else tuple(lazy)
        self.guarded = guarded
        self.outline = tree.Outline(flat.tokens, scopes.node_of)
        self.leaves: list[Leaf] = []
        self.stored: list[Leaf] = []
        self.scratched: list[int] = []  # copied before each save
        self.wandering: set[int] = set()  # of those, the ones whose address is new each time and does not matter
        self.addresses: list[int] = []
        self.rest: tuple[list[Any], list[Any], list[Any]] = ([], [], [])  # shapes, strides, dtypes
        self.streamed: list[int] = []  # by index, in the order of the file
        self.lazy_tensors: list[int] = []
        self.watched: list[int] = []  # of those, the ones that can change
        self.bytes = 0
        self.structure = b""
        self.agreed: list[tuple[str, bytes]] = []  # objects that must be equal on all ranks
        self.copied: list[Leaf] = []  # replicas that another node's rank writes, and that this one keeps for its own node
        self.registered: tuple[str, str] | None = None  # session, layout
        self.registered_copies: tuple[str, str] | None = None

    def shards(self) -> list[dict[str, Any]]:
        return [leaf.shard() for leaf in self.stored]

    def copies(self) -> list[dict[str, Any]]:
        return [leaf.shard() for leaf in self.copied]


class Content:
    """What one save consists of. ``held`` must live until the save is staged; what ``lazy`` watches must not change either, nor
    what ``stream`` copies, until its copies are ordered."""

    def __init__(
        self, layout: Layout, objects: list[dict[str, Any]], held: list[Any], lazy: Unchanged | None, stream: Stream | None = None
    ) -> None:
        self.layout = layout
        self.objects = objects
        self.held = held
        self.lazy = lazy
        self.stream = stream


class Named(Protocol):
    name: str


class Unchanged:
    """Watches lazy tensors by torch's version counters: they miss fused optimizers and writes through `.data`, but see the usual
    in-place ones, as load_state_dict() before the fence, which would leave a save half old and half new without a word."""

    def __init__(self, tensors: list[Any], leaves: Sequence[Named]) -> None:
        self._tensors = tensors
        self._leaves = leaves
        self._versions = _versions(tensors)

    def changed(self) -> str | None:
        """The name of a tensor that was changed since."""
        versions = _versions(self._tensors)
        if versions == self._versions:
            return None
        pairs = zip(self._leaves, self._versions, versions, strict=True)
        return next(leaf.name for leaf, old, new in pairs if old != new)


_version = attrgetter("_version")


def _versions(tensors: list[Any]) -> list[Any]:
    try:
        return list(map(_version, tensors))
    except (AttributeError, RuntimeError):  # some are numpy's, or made in inference mode
        return [_version_or_none(tensor) for tensor in tensors]


def _version_or_none(tensor: Any) -> Any:
    try:
        return tensor._version
    except (AttributeError, RuntimeError):
        return None


def _groups(replicated: Replicated, rank: int, world_size: int) -> list[tuple[Callable[[str], bool], Group]]:
    """Which names, and the ranks on which what has such a name is equal; the first that fits counts."""
    everyone = range(world_size)
    if isinstance(replicated, bool):
        return [(lambda name: True, everyone)] if replicated else []
    if callable(replicated):
        return [(replicated, everyone)]
    if not isinstance(replicated, Mapping):
        return [(_fits(pattern), everyone) for pattern in replicated]
    found: list[tuple[Callable[[str], bool], Group]] = []
    for pattern, ranks in replicated.items():
        group = tuple(sorted(set(ranks)))
        if rank not in group or not all(type(each) is int and 0 <= each < world_size for each in group):
            raise ValueError(f"replicated: '{pattern}' is on ranks of {world_size}, rank {rank} among them, not on {ranks!r}")
        found.append((_fits(pattern), everyone if len(group) == world_size else group))
    return found


def _fits(pattern: str) -> Callable[[str], bool]:
    return lambda name: fnmatch.fnmatchcase(name, pattern)


class Layouts:
    """Makes the content of each save; one save at a time, after the one before it is staged."""

    def __init__(
        self,
        *,
        world_size: int,
        guard: Guard,
        replicated: Replicated = False,
        rank: int = 0,
        scopes: Scopes | None = None,
        check_replicas: bool = False,
        node: Sequence[int] = (),
        streamed: Lazy = None,
        copies: dict[Any, Copies] | None = None,
    ) -> None:
        self._streamed = streamed
        self._copies = {} if copies is None else copies
        self._world_size = world_size
        self._rank = rank
        self._guard = guard
        self._replicated = _groups(replicated, rank, world_size)
        self._scopes = scopes or Scopes()
        self._check_replicas = check_replicas
        self._node = node
        self.last: Layout | None = None

    def content(self, state: object, lazy: Lazy, participants: Sequence[int] | None = None) -> Content:
        """Describe ``state``; copies only what is not contiguous, or small and always elsewhere.

        ``participants``: the ranks that take part in the save; default: all.

        Raises:
            UnsupportedTensor: a tensor that cannot be saved.
            CairnError: a leaf that is neither tensor nor plain and cannot be pickled, or too deep a nesting.
        """
        flat = tree.flatten(state)
        layout = self.last
        ranks: Ranks = range(self._world_size) if participants is None else tuple(participants)
        if layout is None or layout.ranks != ranks or not self._same(layout, flat, lazy):
            layout = self._make(flat, lazy, layout, ranks)
            self.last = layout
        for index in layout.scratched:
            tensors.refresh(layout.leaves[index], flat.tensors[index])
        objects = [Stored(tree.TREE, "rank", None, layout.structure), *self._scopes.encode(flat.values, layout.outline)]
        equal = layout.agreed + (replicas.checks(layout.leaves, flat.tensors) if self._check_replicas else [])
        objects += [Stored(name, "shared", None, data) for name, data in equal]
        messages = []
        for stored in objects:
            message: dict[str, Any] = {"name": stored.name, "scope": stored.scope, "bytes": len(stored.data)}
            if stored.key is not None:
                message["key"] = stored.key
            # The rank must live until the fence anyway, and these bytes are not seen by anyone else.
            if layout.lazy_tensors or layout.streamed:
                message["eager"] = False
            message["source"] = {"memory": [{"address": tensors.address_of_bytes(stored.data), "bytes": len(stored.data)}]}
            messages.append(message)
        watched = None
        if len(layout.watched) == len(flat.tensors) > 0:
            watched = Unchanged(flat.tensors, layout.leaves)
        elif layout.watched:
            watched = Unchanged(*([some[index] for index in layout.watched] for some in (flat.tensors, layout.leaves)))
        held = [flat.tensors, tensors.storages(flat.tensors), [stored.data for stored in objects], layout]
        return Content(layout, messages, held, watched, self._stream(layout, flat.tensors) if layout.streamed else None)

    def _stream(self, layout: Layout, state: Sequence[Any]) -> Stream:
        leaves = [layout.leaves[index] for index in layout.streamed]
        taken = [placement.resolve(state[index]).detach() for index in layout.streamed]
        eager = [place for place, leaf in enumerate(leaves) if leaf.eager]
        clones: dict[int, Any] = {}
        waits = sum(leaves[place].bytes for place in eager) > limits.CLONE_BYTES
        if not waits:
            try:
                clones = {place: taken[place].clone() for place in eager}  # as their device's current stream computes on
            except sys.modules["torch"].OutOfMemoryError:  # of the device: no reason to end the training
                waits = True
        watched = None
        if not waits:
            taken = [clones.get(place, tensor) for place, tensor in enumerate(taken)]
            lazy = [place for place, leaf in enumerate(leaves) if not leaf.eager]
            watched = (
                Unchanged([state[layout.streamed[place]] for place in lazy], [leaves[place] for place in lazy]) if lazy else None
            )
        sources = [Source(leaf.name, tensor, leaf.bytes) for leaf, tensor in zip(leaves, taken, strict=True)]
        return Stream(sources, self._copies, watched, waits=waits, lazy=watched is not None)

    def _same(self, layout: Layout, flat: tree.Flat, lazy: Lazy) -> bool:
        wanted = lazy if lazy is None or isinstance(lazy, bool) else tuple(lazy)
        if layout.lazy != wanted or layout.tokens != flat.tokens or layout.guarded != self._guard.signature():
            return False
        try:
            same = tensors.unchanged(flat.tensors, flat, (layout.addresses, *layout.rest), layout.wandering)
        except (RuntimeError, NotImplementedError):
            return False  # something came that has no memory: describing it says what
        return same and self._same_boxes(layout, flat)

    def _same_boxes(self, layout: Layout, flat: tree.Flat) -> bool:
        """DTensors of equal memory may still have been placed anew."""
        if not flat.odd:
            return True
        return all(
            getattr(leaf.tensor, "placements", None) == getattr(tensor, "placements", None) and (leaf.tensor.shape == tensor.shape)
            for leaf, tensor in zip(layout.leaves, flat.tensors, strict=True)
            if leaf.distributed
        )

    def _make(self, flat: tree.Flat, lazy: Lazy, before: Layout | None, ranks: Ranks) -> Layout:
        layout = Layout(flat, lazy, self._guard.signature(), ranks, self._scopes)
        self._guard.refresh()
        layout.leaves = [
            tensors.describe(name, tensor, named_lazy(name, self._streamed))
            for name, tensor in zip(layout.outline.names, flat.tensors, strict=True)
        ]
        addresses, *rest = tensors.signatures(flat.tensors, flat)
        layout.addresses, layout.rest = addresses, (rest[0], rest[1], rest[2])
        comparable = before is not None and before.tokens == flat.tokens and before.rest == layout.rest
        taking: dict[int, tuple[Group, Group | None]] = {}
        for leaf in layout.leaves:
            self._decide(leaf, lazy, ranks, taking)
        if any(leaf.streamed for leaf in layout.leaves):
            small = [leaf for leaf in layout.leaves if not leaf.eager and not leaf.streamed]
            if sum(leaf.bytes for leaf in small) <= limits.SMALL_LAZY_BYTES:
                for leaf in small:
                    leaf.eager = True
        aliases = self._assign(layout, rest)
        tied = set(aliases.values())
        first: dict[tuple[Any, ...], str] = {}
        records: list[dict[str, Any]] = []
        used = 0
        for index, leaf in enumerate(layout.leaves):
            is_mine, is_copied = leaf.owner in (None, self._rank), leaf.copier == self._rank
            kept = before.leaves[index].scratch if comparable and before is not None else None
            if not is_mine and not is_copied:
                leaf.scratch = None
            if leaf.streamed:
                # Where it lies does not matter to the daemon. What an optimizer owns is looked at by address, though.
                known = before if comparable else None
                moved = known is not None and (known.addresses[index] != addresses[index] or index in known.wandering)
                if moved and leaf.eager and index not in aliases and leaf.name not in tied:
                    layout.wandering.add(index)
            elif leaf.scratch is None and leaf.eager and comparable and before is not None and leaf.bytes:
                moved = before.addresses[index] != addresses[index] or index in before.wandering
                is_tied = index in aliases or leaf.name in tied  # its ties would not be looked at again
                if moved and not is_tied and tensors.fits_scratch(leaf, used):
                    if is_mine or is_copied:
                        tensors.keep(leaf, kept)
                    layout.wandering.add(index)
                    used += leaf.bytes
            elif leaf.scratch is not None and kept is not None:
                tensors.keep(leaf, kept)
            alias = aliases.get(index)
            if leaf.group is None and index not in layout.wandering:
                alias = self._alias(leaf, addresses[index], rest, index, first)
            records.append(leaf.record() if alias is None else leaf.record() | {"name": alias})
            if alias is not None:
                continue
            if leaf.scratch is not None:
                layout.scratched.append(index)
            if is_mine and self._is_stored(leaf):
                layout.stored.append(leaf)
                if leaf.streamed:
                    layout.streamed.append(index)
            elif is_copied and leaf.bytes:
                layout.copied.append(leaf)
        # As the daemon orders a file (CairnStore's Layout): larger elements first, a complex128 counting as a pair.
        layout.streamed.sort(key=lambda index: -min(8, dtypes.BYTES[layout.leaves[index].dtype]))
        layout.lazy_tensors = [
            index
            for index, leaf in enumerate(layout.leaves)
            if not leaf.eager and not leaf.streamed and (leaf.owner in (None, self._rank) or leaf.copier == self._rank)
        ]
        layout.watched = [index for index in layout.lazy_tensors if layout.leaves[index].kind != "jax"]
        layout.bytes = sum(leaf.bytes for leaf in layout.stored)
        body = {"format": tree.FORMAT, "root": layout.outline.root, "tensors": records, "keys": self._scopes.keys}
        layout.structure = json.dumps(body, separators=(",", ":")).encode("ascii")
        return layout

    def _decide(self, leaf: Leaf, lazy: Lazy, ranks: Ranks, taking: dict[int, tuple[Group, Group | None]]) -> None:
        """Eager or lazy, a part of a whole, or of equal copies, or private. ``taking`` keeps, by object, each group and who of it
        takes part."""
        if leaf.scratch is None:
            immutable = leaf.kind == "jax"
            is_owned = leaf.is_run and self._guard.owns(leaf.address, leaf.bytes)
            leaf.eager = not (immutable or named_lazy(leaf.name, lazy) or is_owned)
        if leaf.group is not None:
            self._share(leaf, leaf.group, ranks, taking)
        if leaf.distributed or self._world_size == 1:
            return
        group = next((group for fits, group in self._replicated if fits(leaf.name)), None)
        if group is None:
            leaf.private = True
        else:
            self._share(leaf, group, ranks, taking)

    def _share(self, leaf: Leaf, group: Group, ranks: Ranks, taking: dict[int, tuple[Group, Group | None]]) -> None:
        """The leaf is equal on the ranks of ``group``, or of those that take part."""
        if id(group) not in taking:
            some = ranks if len(group) == self._world_size else tuple(rank for rank in group if rank in ranks)
            taking[id(group)] = group, some if len(some) > 1 and self._rank in some else None
        leaf.group = taking[id(group)][1]

    def _assign(self, layout: Layout, rest: Sequence[Any]) -> dict[int, str]:
        """Say who writes each replicated tensor. Returns, by index, the names under which the very same memory is stored already;
        of replicated tensors that is known before anything else is, for all ranks must come to the same end."""
        aliases: dict[int, str] = {}
        first: dict[tuple[Any, ...], str] = {}
        grouped = [(index, leaf) for index, leaf in enumerate(layout.leaves) if leaf.group is not None]
        for index, leaf in grouped:
            alias = self._alias(leaf, layout.addresses[index], rest, index, first)
            if alias is not None:
                aliases[index] = alias
        shared = [leaf for index, leaf in grouped if index not in aliases]
        replicas.assign(shared, self._rank, self._node)
        layout.agreed = replicas.agreed(shared)
        return aliases

    def _alias(self, leaf: Leaf, address: int, rest: Sequence[Any], index: int, first: dict[tuple[Any, ...], str]) -> str | None:
        """The name under which the very same memory is stored already (tied weights), if it is."""
        if not leaf.bytes:
            return None
        shapes, strides, kinds = rest
        key = (
            address, tuple(shapes[index]), tuple(strides[index]), kinds[index], leaf.kind, leaf.global_shape, leaf.offsets,
            leaf.private, leaf.group,
        )  # fmt: skip
        name = first.setdefault(key, leaf.name)
        return None if name == leaf.name else name

    def _is_stored(self, leaf: Leaf) -> bool:
        """A DTensor's empty part is nothing: the other ranks' parts tile the whole."""
        return bool(leaf.bytes) or leaf.global_shape is None
