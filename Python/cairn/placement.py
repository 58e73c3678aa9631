"""What part of a global tensor a DTensor holds, and which other ranks hold the same. Any other tensor is a whole of its own."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedTensor

if TYPE_CHECKING:
    from .tensors import Leaf


def resolve(tensor: Any) -> Any:
    """The tensor that holds the memory: a DTensor's local one, else the tensor itself."""
    local = getattr(tensor, "_local_tensor", None)
    return tensor if local is None else local


def is_distributed(tensor: Any) -> bool:
    return getattr(tensor, "_local_tensor", None) is not None and hasattr(tensor, "placements")


def box_of(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Global shape, offsets and local shape of a DTensor; of any other tensor, its whole."""
    if not is_distributed(tensor):
        shape = tuple(tensor.shape)
        return shape, (0,) * len(shape), shape
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(tensor.shape), tuple(offsets), tuple(local)


def place(leaf: Leaf, tensor: Any) -> None:
    """Set a DTensor's box in its global tensor, and the ranks that hold an equal copy of that box."""
    for placement in tensor.placements:
        if placement.is_partial():
            raise UnsupportedTensor(f"tensor '{leaf.name}' has a partial placement: reduce it first, it has no value yet")
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
