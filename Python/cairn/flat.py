"""Ranges of flattened tensors, as sharded optimizers hold them: ZeRO's partitions and FSDP1's FlatParameter.

Both lay tensors one after the other into one buffer, pad it, and cut it into equal parts, one for each rank: a rank then has the
end of one tensor, some whole ones and the beginning of another. A FlatShard names each of those ranges, so that what is saved is
the tensors: whole to every other sharding, and without the padding.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UnsupportedTensor


class FlatShard:
    """Elements ``begin`` to ``begin + len(tensor)`` of the tensor of ``shape``, flattened in row-major order: a leaf of a state, to
    save from and to restore into. Other ranks hold the rest of that tensor under the same name, as FlatShards too when it is saved.

    Args:
        tensor: one dimension, on the CPU; most often a view into a flat buffer. May be empty.
        shape: the whole tensor's.
        begin: elements of the whole tensor before this range.
        ranks: the ranks that hold this very range, this one among them; default: this one alone.
    Raises:
        UnsupportedTensor: not a torch tensor of one dimension, or a range that is not within ``shape``.
    """

    __slots__ = ("_local_tensor", "begin", "ranks", "shape")

    def __init__(self, tensor: Any, shape: Sequence[int], begin: int, *, ranks: Sequence[int] | None = None) -> None:
        base: Any = getattr(sys.modules.get("torch"), "Tensor", None)
        if base is None or not isinstance(tensor, base) or tensor.ndim != 1:
            raise UnsupportedTensor(f"a FlatShard is a torch tensor of one dimension, not {type(tensor).__name__} {_shape(tensor)}")
        self.shape = tuple(int(extent) for extent in shape)
        self.begin = int(begin)
        whole = math.prod(self.shape)
        if min(self.shape, default=0) < 0 or not 0 <= self.begin <= self.begin + len(tensor) <= whole:
            raise UnsupportedTensor(f"elements {begin} to {begin + len(tensor)} are not within a tensor of {list(shape)}")
        self.ranks = None if ranks is None else tuple(sorted({int(rank) for rank in ranks}))
        self._local_tensor = tensor  # as a DTensor calls it: what has the memory

    @property
    def tensor(self) -> Any:
        """What holds the elements."""
        return self._local_tensor

    @property
    def placements(self) -> tuple[Any, ...]:
        """What a layout compares to find that a tensor was placed anew, as a DTensor's."""
        return (self.begin, self.ranks)

    @property
    def _version(self) -> int:
        return int(self._local_tensor._version)

    def __len__(self) -> int:
        return len(self._local_tensor)

    def __repr__(self) -> str:
        return f"FlatShard({self.begin}:{self.begin + len(self)} of {list(self.shape)})"


def flat_shards(
    buffer: Any, tensors: Mapping[str, Sequence[int]], part: int = 0, *, align: int = 1, ranks: Sequence[int] | None = None
) -> dict[str, FlatShard]:
    """The named tensors as one part of a flat buffer holds them: views into ``buffer``, by name.

    Args:
        buffer: one dimension; the ``part``-th of equal parts of the whole flat buffer (ZeRO-1/2: the rank's partition of a group,
            ``single_partition_of_fp32_groups``, and its moments; FSDP1: the local shard of a FlatParameter). Padding belongs to it.
        tensors: names and shapes in the order in which they were flattened into the whole buffer.
        part: this rank's place among those that share the buffer.
        align: elements; each tensor begins at a multiple of it. 1: back to back.
        ranks: see FlatShard, where several ranks hold this same part.
    Returns:
        an entry for every name; those that lie in other parts are empty, so that all ranks' states have the same names.
    Raises:
        UnsupportedTensor: as FlatShard.
    """
    if getattr(buffer, "ndim", None) != 1 or part < 0 or align < 1:
        raise UnsupportedTensor(f"a flat buffer has one dimension, not {_shape(buffer)}, part from 0, not {part}, align from 1")
    begin, size = part * len(buffer), len(buffer)
    found: dict[str, FlatShard] = {}
    place = 0
    for name, shape in tensors.items():
        place = -(-place // align) * align
        count = math.prod(shape)
        first, last = (min(max(edge - begin, 0), size) for edge in (place, place + count))
        found[name] = FlatShard(buffer[first:last], shape, min(max(begin - place, 0), count), ranks=ranks)
        place += count
    return found


def _shape(tensor: Any) -> str:
    return str(list(getattr(tensor, "shape", ())))
