"""What part of a global tensor a DTensor or FlatShard holds, and which other ranks hold the same. Any other tensor is a whole of
its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedTensor
from .flat import FlatShard

if TYPE_CHECKING:
    from .tensors import Leaf


def resolve(tensor: Any) -> Any:
    """The tensor that holds the memory: a DTensor's or FlatShard's local one, else the tensor itself."""
    local = getattr(tensor, "_local_tensor", None)
    return tensor if local is None else local


def is_distributed(tensor: Any) -> bool:
    return getattr(tensor, "_local_tensor", None) is not None and hasattr(tensor, "placements")


def box_of(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Global shape, offsets and local shape of a DTensor; of any other tensor, its whole. Of a FlatShard, offset and extent are one
    number each, which count elements of the flattened tensor, as the wire's boxes may."""
    if isinstance(tensor, FlatShard):
        return tensor.shape, (tensor.begin,), (len(tensor),)
    if not is_distributed(tensor):
        shape = tuple(tensor.shape)
        return shape, (0,) * len(shape), shape
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(tensor.shape), tuple(offsets), tuple(local)


def check(name: str, tensor: Any) -> None:
    """Refuse a DTensor that has no box: one that is still to be reduced, or whose part of a dimension is several runs of it, of
    which a box would name the first only.

    Raises:
        UnsupportedTensor: it is such a one.
    """
    if isinstance(tensor, FlatShard) or not is_distributed(tensor):
        return
    if any(placement.is_partial() for placement in tensor.placements):
        raise UnsupportedTensor(f"tensor '{name}' has a partial placement: reduce it first, it has no value yet")
    if any(_split_factor(placement) > 1 for placement in tensor.placements):
        mesh = tensor.device_mesh
        coordinate = mesh.get_coordinate()
        for dimension, extent in enumerate(tensor.shape if coordinate is not None else ()):
            found = runs(extent, dimension, mesh.shape, coordinate, tensor.placements)
            if len(found) > 1:
                where = " and ".join(f"{begin}:{end}" for begin, end in found)
                raise UnsupportedTensor(
                    f"tensor '{name}' holds {where} of dimension {dimension} by its placements "
                    f"{', '.join(map(str, tensor.placements))}, which is no box: redistribute it to Shard placements first"
                )


def runs(
    extent: int, dimension: int, mesh: Sequence[int], coordinate: Sequence[int], placements: Sequence[Any]
) -> list[tuple[int, int]]:
    """What the rank at ``coordinate`` holds of a dimension, as (begin, end), by the rules of Shard (torch.chunk) and _StridedShard
    (chunk into its split factor, and each of these again); runs that abut are one."""
    held = [(0, extent)]
    for size, at, placement in zip(mesh, coordinate, placements, strict=True):
        if getattr(placement, "dim", None) != dimension:
            continue
        length = sum(end - begin for begin, end in held)
        factor = _split_factor(placement)
        places = []
        for number in range(factor):
            first, last = _chunk(length, factor, number)
            begin, end = _chunk(last - first, size, at)
            places.append((first + begin, first + end))
        held = [run for place in places for run in _within(held, *place)]
    joined: list[tuple[int, int]] = []
    for begin, end in held:
        if joined and joined[-1][1] == begin:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
    return joined


def _split_factor(placement: Any) -> int:
    return int(getattr(placement, "split_factor", 1))


def _chunk(length: int, count: int, number: int) -> tuple[int, int]:
    """Where torch.chunk's part of that number begins and ends."""
    size = -(-length // count)
    return min(length, size * number), min(length, size * (number + 1))


def _within(held: Sequence[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """Positions ``first`` to ``last`` of the runs ``held``, one after the other."""
    found, passed = [], 0
    for begin, end in held:
        low, high = max(first - passed, 0), min(last - passed, end - begin)
        if low < high:
            found.append((begin + low, begin + high))
        passed += end - begin
    return found


def place(leaf: Leaf, tensor: Any) -> None:
    """Set the box of a DTensor or FlatShard in its global tensor, and the ranks that hold an equal copy of that box."""
    if isinstance(tensor, FlatShard):
        leaf.distributed = True
        if leaf.shape != tensor.shape:
            leaf.global_shape, leaf.offsets = tensor.shape, (tensor.begin,)
        leaf.group = tensor.ranks if tensor.ranks is not None and len(tensor.ranks) > 1 else None
        return
    check(leaf.name, tensor)
    leaf.distributed = True
    whole, offsets, local = box_of(tensor)
    if local != leaf.shape:
        raise UnsupportedTensor(f"tensor '{leaf.name}' holds {leaf.shape} where its placements say {local}")
    if local != whole:
        leaf.global_shape, leaf.offsets = whole, offsets
    leaf.group = _group(tensor.device_mesh, tuple(placement.is_replicate() for placement in tensor.placements))


@lru_cache(maxsize=64)
def _group(mesh: Any, copied: tuple[bool, ...]) -> tuple[int, ...] | None:
    """The ranks that hold what this one does, where ``copied`` says along which dimensions of the mesh there are copies."""
    coordinate = mesh.get_coordinate()
    if coordinate is None or not any(copied):  # None: this rank is not in the mesh, and its part is empty
        return None
    same = [slice(None) if equal else at for equal, at in zip(copied, coordinate, strict=True)]
    group = tuple(sorted(mesh.mesh[tuple(same)].flatten().tolist()))
    return group if len(group) > 1 else None
