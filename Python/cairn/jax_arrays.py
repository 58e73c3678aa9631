"""jax.Arrays as saves and restores see them: boxes of a whole, in the memory of this process's devices.

What one process holds of an array must be one box of it, in distinct parts that lie on its devices, as every mesh gives it. That
box is this rank's shard; a copy that other processes hold of the same box is a replica, as with DTensors: rank means jax's process
index. The arrays are immutable, so they are lazy without a fence: a save holds a view of each part until it is staged, and jax does
not use memory again that has one, but takes other memory where such an array is donated.

A restore cannot write into them: it fills new memory, and the containers of the state get new arrays with the old ones' sharding.
"""

from __future__ import annotations

import itertools
import math
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import dtypes, limits
from .errors import UnsupportedTensor

if TYPE_CHECKING:
    from .tensors import Leaf

Shape = tuple[int, ...]
Box = tuple[Shape, Shape]
"""Offsets and shape, in elements."""


def array_class() -> type | None:
    """jax.Array, where jax is imported."""
    return getattr(sys.modules.get("jax"), "Array", None)


class Parts:
    """What this process holds of arrays of one sharding and shape.

    ``boxes`` are its distinct parts, ``first`` the place of each among the process's devices, ``of_device`` each device's part.
    ``offsets`` and ``shape`` are of the box around them all. ``runs`` puts them into row-major order of that box, as (part, first
    element in it, elements); None where there would be too many. ``group``: the processes that hold the same box.
    """

    def __init__(self, sharding: Any, shape: Shape) -> None:
        here = [box_of(index, shape) for index in sharding.addressable_devices_indices_map(shape).values()]
        self.boxes = list(dict.fromkeys(here))
        self.first = [here.index(box) for box in self.boxes]
        self.of_device = [self.boxes.index(box) for box in here]
        if not here:
            raise UnsupportedTensor("no device of this process holds a part of it")
        self.offsets = tuple(map(min, zip(*(offsets for offsets, _ in self.boxes), strict=True)))
        ends = (tuple(map(int.__add__, *box)) for box in self.boxes)
        self.shape = tuple(max(end) - begin for end, begin in zip(zip(*ends, strict=True), self.offsets, strict=True))
        if sum(math.prod(part) for _, part in self.boxes) != math.prod(self.shape):
            raise UnsupportedTensor("this process's devices hold parts of it that are not one box together")
        self.runs = self._runs()
        self.distributed = not sharding.is_fully_addressable
        self.group = self._group(sharding, shape) if self.distributed else None

    def _runs(self) -> list[tuple[int, int, int]] | None:
        """A part's rows follow one another in the box as far as it spans the box's later dimensions."""
        inner = len(self.shape)
        while inner > 0 and all(part[inner - 1] == self.shape[inner - 1] for _, part in self.boxes):
            inner -= 1
        outer = max(inner - 1, 0)  # rows of dimensions before this one lie apart
        if sum(math.prod(part[:outer]) for _, part in self.boxes) > limits.RUNS:
            return None
        found: list[tuple[int, int, int, int]] = []
        for number, (offsets, part) in enumerate(self.boxes):
            count = math.prod(part[outer:])
            for row, place in enumerate(itertools.product(*(range(length) for length in part[:outer]))):
                at = [one + other - begin for one, other, begin in zip(offsets, place, self.offsets, strict=False)]
                at += [one - begin for one, begin in zip(offsets[outer:], self.offsets[outer:], strict=True)]
                position = 0
                for index, length in zip(at, self.shape, strict=True):
                    position = position * length + index
                found.append((position, number, row * count, count))
        return [(number, begin, count) for _, number, begin, count in sorted(found)]

    def _group(self, sharding: Any, shape: Shape) -> tuple[int, ...] | None:
        held: dict[int, set[Box]] = {}
        for device, index in sharding.devices_indices_map(shape).items():
            held.setdefault(device.process_index, set()).add(box_of(index, shape))
        mine = set(self.boxes)
        if any(boxes != mine and boxes & mine for boxes in held.values()):
            raise UnsupportedTensor("some of its parts on this process, but not all, are on another one too")
        group = tuple(sorted(process for process, boxes in held.items() if boxes == mine))
        return group if len(group) > 1 else None


@lru_cache(maxsize=4096)
def parts_of(sharding: Any, shape: Shape) -> Parts:
    return Parts(sharding, shape)


def box_of(index: tuple[slice, ...], shape: Shape) -> Box:
    offsets = tuple(one.start or 0 for one in index)
    ends = (length if one.stop is None else one.stop for one, length in zip(index, shape, strict=True))
    return offsets, tuple(end - begin for end, begin in zip(ends, offsets, strict=True))


class View:
    """An array of a state, as a walk of it gives it. Its parts are looked up when they are needed."""

    __slots__ = ("_memory", "array")

    def __init__(self, array: Any) -> None:
        self.array = array
        self._memory: list[Any] | None = None

    @property
    def shape(self) -> Shape:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def stride(self) -> Any:
        """What tells, beside shape and address, where the elements are."""
        return (self.array.sharding,)

    @property
    def parts(self) -> Parts:
        return parts_of(self.array.sharding, self.shape)

    @property
    def memory(self) -> list[Any]:
        """A numpy view of each part, in the order of ``parts.boxes``; waits until they are computed."""
        if self._memory is None:
            numpy = sys.modules["numpy"]
            shards = self.array.addressable_shards
            self._memory = [numpy.asarray(shards[place].data) for place in self.parts.first]
        return self._memory

    @property
    def addresses(self) -> tuple[int, ...]:
        return tuple(_address(part) for part in self.memory)

    def extents(self) -> list[tuple[int, int]] | None:
        """Addresses and bytes of the box's elements in row-major order; None: they must be put together first."""
        runs, item, addresses = self.parts.runs, self.dtype.itemsize, self.addresses
        if runs is None or not all(part.flags["C_CONTIGUOUS"] for part in self.memory):
            return None
        return [(addresses[part] + begin * item, count * item) for part, begin, count in runs]

    def copy_into(self, buffer: Any) -> None:
        """Put the parts together in ``buffer``, a numpy array of the box's shape."""
        for (offsets, shape), part in zip(self.parts.boxes, self.memory, strict=True):
            begins = (one - begin for one, begin in zip(offsets, self.parts.offsets, strict=True))
            buffer[tuple(slice(begin, begin + length) for begin, length in zip(begins, shape, strict=True))] = part


def describe(name: str, view: View, make: Any) -> Leaf:
    """What is to be saved of an array; ``make`` is the class Leaf.

    Raises:
        UnsupportedTensor: it is traced or deleted, not on the CPU, of a type that files cannot hold, or in parts that are no box.
    """
    array, numpy = view.array, sys.modules["numpy"]
    if isinstance(array, sys.modules["jax"].core.Tracer):
        raise UnsupportedTensor(f"array '{name}' is traced and has no value: save() belongs outside of jit")
    dtype = dtypes.of_numpy(view.dtype) if isinstance(view.dtype, numpy.dtype) else None
    if dtype is None:
        raise UnsupportedTensor(
            f"array '{name}' is of {view.dtype}, which the file format cannot hold: of random keys, save jax.random.key_data()"
        )
    if array.is_deleted():
        raise UnsupportedTensor(f"array '{name}' was deleted, as where it was donated to a jitted function")
    platforms = {device.platform for device in array.sharding.device_set}
    if platforms != {"cpu"}:
        raise UnsupportedTensor(
            f"array '{name}' is on '{min(platforms - {'cpu'})}', which this version cannot save: save jax.device_get() of it"
        )
    try:
        parts = view.parts
    except UnsupportedTensor as failure:
        raise UnsupportedTensor(f"array '{name}': {failure}") from None
    size = math.prod(parts.shape) * view.dtype.itemsize
    leaf: Leaf = make(name, "jax", dtype, parts.shape, size, view.addresses[0], view)
    leaf.distributed = parts.distributed
    leaf.group = parts.group
    if parts.distributed and parts.shape != view.shape:
        leaf.global_shape, leaf.offsets = view.shape, parts.offsets
    leaf.extents = view.extents()
    return leaf


class Later:
    """A new array in the place of a state's, made once its bytes are there: ``buffers`` are of its parts."""

    __slots__ = ("_array", "_parts", "buffers")

    def __init__(self, array: Any) -> None:
        numpy = sys.modules["numpy"]
        self._array = array
        self._parts = View(array).parts
        self.buffers = [numpy.empty(shape, dtype=array.dtype) for _, shape in self._parts.boxes]

    @property
    def boxes(self) -> list[Box]:
        return self._parts.boxes

    def made(self) -> Any:
        jax: Any = sys.modules["jax"]
        array = self._array
        if not array.committed:  # one that is bound to a device could not be computed with those on others
            return jax.device_put(self.buffers[0])
        devices = array.sharding.addressable_devices_indices_map(array.shape)
        placed = [jax.device_put(self.buffers[part], device) for part, device in zip(self._parts.of_device, devices, strict=True)]
        return jax.make_array_from_single_device_arrays(array.shape, array.sharding, placed)


def settled(value: Any) -> Any:
    """``value`` with arrays where a plan put Laters: in itself, or in the containers that it has made around them."""
    kind = type(value)
    if kind is Later:
        return value.made()
    if kind is dict or kind is list:
        for key, child in list(value.items() if kind is dict else enumerate(value)):
            new = settled(child)
            if new is not child:
                value[key] = new
    elif isinstance(value, tuple):
        new = [settled(child) for child in value]
        if any(left is not right for left, right in zip(new, value, strict=True)):
            make: Any = kind
            return make._make(new) if hasattr(kind, "_make") else tuple(new)
    return value


def _address(part: Any) -> int:
    return int(part.__array_interface__["data"][0])
