"""Tensors that are equal on several ranks are written once, by one of them: which, every rank finds out by itself.

All ranks of a group (those that hold the same bytes) see the same names and sizes, so a rule that looks at nothing else gives the
same answer everywhere: largest first, each to the rank that has least to write so far. That they did see the same is checked by
the daemon at commit, for each of them stores what it saw as an object that must be equal on all.
"""

from __future__ import annotations

import ctypes
import hashlib
import heapq
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from . import placement, tensors
from .tensors import Leaf

Group = tuple[int, ...] | range
"""Ascending ranks. Leaves share the object: looking thousands of ranks up for each of thousands of tensors would take seconds."""

PREFIX = "cairn.replicas"
"""Of the objects that the ranks of a group must agree on; a digest of the group follows."""


def owners(replicas: Iterable[tuple[str, int, Group]]) -> dict[str, int]:
    """The rank that writes each replicated tensor, of (name, bytes, ranks that hold it).

    Loads are counted within a group, on top of what its ranks write for larger groups around it: only of those do all ranks of the
    group know. Where several have as little to write, a hash of the first name says who begins, so that ten runs of one small
    tensor each do not all burden rank 0.
    """
    groups: dict[Group, list[tuple[int, str]]] = {}
    lists: dict[int, tuple[Group, list[tuple[int, str]]]] = {}  # by the object, which must live as long
    for name, count, group in replicas:
        if id(group) not in lists:
            lists[id(group)] = group, groups.setdefault(group, [])
        lists[id(group)][1].append((count, name))
    loads: dict[Group, dict[int, int]] = {}
    found: dict[str, int] = {}
    for group in sorted(groups, key=lambda ranks: (-len(ranks), *ranks[:1], ranks[-1])):
        around = [load for other, load in loads.items() if set(other) > set(group)]
        items = sorted(groups[group], key=lambda item: (-item[0], item[1]))
        first = zlib.crc32(items[0][1].encode("utf-8", "surrogatepass")) % len(group)
        heap = [
            (sum(load[rank] for load in around), (place - first) % len(group), rank) for place, rank in enumerate(group)
        ]  # fmt: skip
        mine = dict.fromkeys(group, 0)
        heapq.heapify(heap)
        for count, name in items:
            load, order, rank = heap[0]
            found[name] = rank
            mine[rank] += count
            heapq.heapreplace(heap, (load + count, order, rank))
        loads[group] = mine
    return found


def assign(leaves: Sequence[Leaf], rank: int, node: Sequence[int]) -> None:
    """Say of each replicated tensor who writes it, and who keeps a copy for this node, if no rank of it writes it.

    ``node``: the ranks on this node, ascending; empty where that is not known.
    """
    writers = owners((leaf.name, leaf.bytes, leaf.group or ()) for leaf in leaves)
    here = set(node)
    foreign = []
    for leaf in leaves:
        leaf.owner = writers[leaf.name]
        leaf.is_far = leaf.owner not in here and leaf.owner != rank
        if leaf.is_far and here and not leaf.streamed:  # what is put is put once
            foreign.append(leaf)
    near = {id(leaf.group): tuple(each for each in leaf.group or () if each in here) for leaf in _one_of_each(foreign)}
    copiers = owners((leaf.name, leaf.bytes, near[id(leaf.group)]) for leaf in foreign)
    for leaf in foreign:
        leaf.copier = copiers[leaf.name]
        leaf.is_far = False


def _one_of_each(leaves: Iterable[Leaf]) -> Iterable[Leaf]:
    """A leaf for each group object."""
    return {id(leaf.group): leaf for leaf in leaves}.values()


def agreed(leaves: Sequence[Leaf]) -> list[tuple[str, bytes]]:
    """An object for each group that this rank is in: a digest of which tensors it shares with it, and who writes each.

    A difference between ranks would else be found at a restore only: a tensor that each leaves to another is in nobody's file.
    """
    groups: dict[Group, list[str]] = {}
    lists = {id(leaf.group): groups.setdefault(leaf.group, []) for leaf in _one_of_each(leaves) if leaf.group is not None}
    for leaf in leaves:
        if leaf.group is not None:
            what = (leaf.name, leaf.dtype, leaf.shape, leaf.global_shape, leaf.offsets, leaf.owner)
            lists[id(leaf.group)].append(repr(what))
    objects = []
    for group, lines in sorted(groups.items(), key=lambda item: tuple(item[0])):  # ranges have no order
        which = hashlib.sha256(repr(group).encode()).hexdigest()[:8]
        digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()
        objects.append((f"{PREFIX}.{which}", f"{len(lines)} tensors {digest}".encode()))
    return objects


def checks(leaves: Sequence[Leaf], state: Sequence[Any]) -> list[tuple[str, bytes]]:
    """An object for each replicated tensor: the CRC-32 of this rank's copy. Where two differ, the daemon voids the save."""
    objects = []
    for leaf, tensor in zip(leaves, state, strict=True):
        if leaf.group is not None and leaf.bytes:
            box = "" if leaf.offsets is None else f" at {list(leaf.offsets)}"
            objects.append((f"cairn.replica.{leaf.name}{box}", b"%08x" % _crc(tensor)))
    return objects


def _crc(tensor: Any) -> int:
    local = placement.resolve(tensor)
    if getattr(getattr(local, "device", None), "type", "cpu") != "cpu":
        local = local.detach().cpu()
    if not tensors.is_dense(local):
        local = local.resolve_conj().resolve_neg().contiguous() if hasattr(local, "resolve_conj") else local.copy(order="C")
    count = int(local.nbytes)
    return zlib.crc32((ctypes.c_char * count).from_address(tensors.address_of(local)))
