"""Where a tensor's bytes live and what part of a global tensor they are.

Contiguous CPU tensors are read by the daemon where they are. Others of the CPU are copied by this client, before each save, into a
kept buffer of the same shape (`scratch`), so they are eager by nature. A GPU's are streamed (see streams), as those of the CPU that
the caller names.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, eq, is_
from typing import Any, Protocol

from . import dtypes, jax_arrays, limits
from .errors import UnsupportedTensor
from .placement import is_distributed, place, resolve


class Flat(Protocol):
    """What a flattened state (tree.Flat) says of its tensors."""

    odd: bool
    arrays: bool


DEVICES = ("cpu", "cuda")
"""Whose tensors are saved, and restored into. torch calls AMD's "cuda" too."""

PAGE = 4096
LARGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


@dataclass(slots=True)
class Leaf:
    """One tensor of a state. Shapes and offsets are in elements; ``address`` is that of the bytes to read."""

    name: str
    kind: str  # torch | numpy | jax
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    address: int
    tensor: Any
    streamed: bool = False  # this client puts the bytes: the address is that of another device, or does not matter
    is_run: bool = True  # its elements fill one run of memory, in whatever order
    scratch: Any = None
    extents: list[tuple[int, int]] | None = None  # addresses and bytes, in order, where it is not one run of memory
    global_shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None
    group: tuple[int, ...] | range | None = None  # ranks that hold the same bytes, this one among them, ascending
    owner: int | None = None  # of them, the one that writes
    copier: int | None = None  # where that one is on another node: who keeps a copy for this node
    is_far: bool = False  # no rank of this node is known to store it
    distributed: bool = False
    private: bool = False
    eager: bool = True

    def shard(self) -> dict[str, Any]:
        """As Register sends it."""
        shard: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": self.shape}
        if self.global_shape is not None:
            shard["globalShape"], shard["offsets"] = self.global_shape, self.offsets
        if self.private:
            shard["private"] = True
        if self.streamed:
            shard["source"] = {"streamed": True}
            return shard
        if not self.eager:
            shard["eager"] = False
        extents = [(self.address, self.bytes)] if self.extents is None or self.scratch is not None else self.extents
        shard["source"] = {"memory": [{"address": address, "bytes": count} for address, count in extents if count]}
        return shard

    def record(self) -> dict[str, Any]:
        """As the stored tree tells it: what a restore must know without the others' files."""
        record: dict[str, Any] = {"name": self.name, "kind": self.kind, "dtype": self.dtype, "shape": self.shape}
        if self.global_shape is not None:
            record["globalShape"] = self.global_shape
        if self.distributed:
            record["distributed"] = True
        if self.private:
            record["private"] = True
        if self.is_far:
            record["owner"] = self.owner
        return record


def address_of(tensor: Any) -> int:
    """The address of the first element (of a DTensor or FlatShard: of its local part; of jax's: of the first of its parts)."""
    if isinstance(tensor, jax_arrays.View):
        return tensor.addresses[0]
    if isinstance(tensor, _ndarray()):
        return int(tensor.__array_interface__["data"][0])
    return int(resolve(tensor).data_ptr())


def describe(name: str, tensor: Any, streamed: bool = False) -> Leaf:
    """What is to be saved of ``tensor``, a torch tensor, DTensor, FlatShard, numpy array or jax's; ``streamed``: torch's are
    streamed as a GPU's, though they are on the CPU.

    Raises:
        UnsupportedTensor: it is on another device, sparse, quantized, partial, or without memory of its own.
    """
    if isinstance(tensor, jax_arrays.View):
        leaf = jax_arrays.describe(name, tensor, Leaf)
        if leaf.extents is None:
            keep(leaf)
        return leaf
    if isinstance(tensor, _ndarray()):
        return _numpy_leaf(name, tensor)
    local = resolve(tensor)
    device = local.device.type
    if device not in DEVICES:
        why = "has no data" if device == "meta" else f"is on '{device}', which this version cannot save: move a copy to the CPU"
        raise UnsupportedTensor(f"tensor '{name}' {why}")
    if str(local.layout) != "torch.strided":
        raise UnsupportedTensor(f"tensor '{name}' is {local.layout}: only dense (strided) tensors can be saved")
    dtype = dtypes.of_torch(local.dtype)
    if dtype is None:
        raise UnsupportedTensor(f"tensor '{name}' is of {local.dtype}, which the file format cannot hold")
    size = local.numel() * local.element_size()
    try:
        address = int(local.data_ptr())
    except RuntimeError as failure:
        raise UnsupportedTensor(f"tensor '{name}' of class {type(tensor).__name__} has no memory: {failure}") from failure
    if size and not address:
        raise UnsupportedTensor(
            f"tensor '{name}' of class {type(tensor).__name__} has no memory of its own: save the tensors inside it"
        )
    leaf = Leaf(name, "torch", dtype, tuple(local.shape), size, address, tensor)
    if is_distributed(tensor):
        place(leaf, tensor)
    leaf.streamed = (streamed or device != "cpu") and size > 0
    if leaf.streamed:
        leaf.is_run = fills_run(local)
    elif size and not is_dense(local):
        torch = sys.modules["torch"]
        keep(leaf, torch.empty(leaf.shape, dtype=local.dtype))
    return leaf


def keep(leaf: Leaf, scratch: Any = None) -> None:
    """From now on, copy the leaf into a kept buffer before each save."""
    if scratch is None:
        if leaf.kind != "torch":
            scratch = sys.modules["numpy"].empty(leaf.shape, dtype=leaf.tensor.dtype.newbyteorder("="))
        else:
            scratch = sys.modules["torch"].empty(leaf.shape, dtype=resolve(leaf.tensor).dtype)
    leaf.scratch = scratch
    leaf.address = address_of(scratch)


def refresh(leaf: Leaf, tensor: Any) -> None:
    """Copy ``tensor`` into the leaf's kept buffer."""
    if leaf.kind == "jax":
        tensor.copy_into(leaf.scratch)
    elif leaf.kind == "numpy":
        sys.modules["numpy"].copyto(leaf.scratch, tensor)
    else:
        torch: Any = sys.modules["torch"]
        with torch.no_grad():
            leaf.scratch.copy_(resolve(tensor))


Signatures = tuple[list[Any], list[Any], list[Any], list[Any]]


def signatures(tensors: Sequence[Any], flat: Flat) -> Signatures:
    """Addresses, shapes, strides and dtypes: what a layout's sources are compared by. About 0.3 µs a tensor."""
    if flat.odd:
        tensors = [resolve(tensor) for tensor in tensors]
    if not flat.arrays:
        base: Any = getattr(sys.modules.get("torch"), "Tensor", None)
        return (
            list(map(base.data_ptr, tensors)) if tensors else [],
            [tensor.shape for tensor in tensors],
            list(map(base.stride, tensors)) if tensors else [],
            [tensor.dtype for tensor in tensors],
        )
    ndarray = _ndarray()
    return (
        [tensor.addresses if isinstance(tensor, jax_arrays.View) else address_of(tensor) for tensor in tensors],
        [tuple(tensor.shape) for tensor in tensors],
        [tensor.strides if isinstance(tensor, ndarray) else tensor.stride() for tensor in tensors],
        [tensor.dtype for tensor in tensors],
    )


def unchanged(tensors: Sequence[Any], flat: Flat, before: Signatures, wandering: set[int]) -> bool:
    """Whether ``signatures`` would be what they were; addresses of ``wandering`` indexes do not matter.

    Nothing that the garbage collector counts outlives its comparison: keeping 20,000 shapes would start it, for tens of ms.
    """
    addresses, shapes, strides, kinds = before
    if flat.arrays:
        found, *rest = signatures(tensors, flat)
        same = rest == [shapes, strides, kinds]
    else:
        if flat.odd:
            tensors = [resolve(tensor) for tensor in tensors]
        base: Any = getattr(sys.modules.get("torch"), "Tensor", None)
        found = list(map(base.data_ptr, tensors)) if tensors else []
        same = all(map(eq, map(_shape, tensors), shapes)) and all(map(is_, map(_dtype, tensors), kinds))
        same = same and (not tensors or all(map(eq, map(base.stride, tensors), strides)))
    for index in wandering:
        found[index] = addresses[index]
    return same and found == addresses


_shape = attrgetter("shape")
_dtype = attrgetter("dtype")


def storages(tensors: Sequence[Any]) -> list[Any]:
    """What keeps the memory of parameters: `parameter.data = other`, as offloading does it, would free it under the daemon's eyes.

    Other tensors are most often made by state_dict() for this save, so nobody else can put other memory under them.
    """
    torch: Any = sys.modules.get("torch")
    parameter: Any = getattr(getattr(torch, "nn", None), "Parameter", _Nothing)
    return [tensor.untyped_storage() for tensor in tensors if type(tensor) is parameter]


def writer(tensor: Any) -> tuple[int, Any]:
    """Where a restore may put a tensor's bytes: its own address, or, where it is not contiguous, a buffer of the CPU.

    Returns (address, buffer): with a buffer, ``fill`` must copy it into the tensor once it is full.
    """
    if isinstance(tensor, _ndarray()):
        if is_dense(tensor) and tensor.flags["WRITEABLE"]:
            return address_of(tensor), None
        buffer = sys.modules["numpy"].empty(tensor.shape, dtype=tensor.dtype.newbyteorder("="))
        return address_of(buffer), buffer
    local = resolve(tensor)
    if is_dense(local):
        return int(local.data_ptr()), None
    buffer = sys.modules["torch"].empty(tuple(local.shape), dtype=local.dtype)
    return int(buffer.data_ptr()), buffer


def fill(tensor: Any, buffer: Any) -> None:
    """Copy ``buffer``, of the same shape, into ``tensor``, whose dtype may differ."""
    if isinstance(tensor, _ndarray()):
        sys.modules["numpy"].copyto(tensor, buffer, casting="unsafe")
        return
    torch: Any = sys.modules["torch"]
    with torch.no_grad():
        resolve(tensor).copy_(buffer)


def convert(target: Any, begin: int, address: int, size: int, dtype: str) -> None:
    """Convert ``size`` bytes of ``dtype`` at ``address`` into elements of ``target``, which is dense, from the one numbered
    ``begin`` on. Numbers are rounded as by torch's copy_() or numpy's copyto(). Of a GPU's: its current stream does it later."""
    raw = (ctypes.c_char * size).from_address(address)
    end = begin + size // dtypes.BYTES[dtype]
    if isinstance(target, _ndarray()):
        numpy: Any = sys.modules["numpy"]
        numpy.copyto(target.reshape(-1)[begin:end], numpy.frombuffer(raw, dtype=dtypes.to_numpy(dtype)), casting="unsafe")
        return
    torch: Any = sys.modules["torch"]
    target.detach().view(-1)[begin:end].copy_(torch.frombuffer(raw, dtype=dtypes.to_torch(dtype)), non_blocking=True)


def can_convert(target: Any, dtype: str) -> bool:
    """Whether ``dtype`` is known to the library of ``target``."""
    return (dtypes.to_numpy(dtype) if isinstance(target, _ndarray()) else dtypes.to_torch(dtype)) is not None


def empty(kind: str, dtype: str, shape: Sequence[int]) -> Any:
    """A new tensor for what the state given to restore() does not hold yet."""
    if kind != "torch" and "numpy" in sys.modules:  # jax's too: how a new array is to be sharded, nobody has said
        numpy_dtype = dtypes.to_numpy(dtype)
        if numpy_dtype is not None:
            return sys.modules["numpy"].empty(tuple(shape), dtype=numpy_dtype)  # asks for large pages by itself
    if "torch" in sys.modules:
        torch_dtype = dtypes.to_torch(dtype)
        if torch_dtype is not None:
            made = sys.modules["torch"].empty(tuple(shape), dtype=torch_dtype)
            _large_pages(made.data_ptr(), made.nbytes)
            return made
    raise UnsupportedTensor(f"a {kind} tensor of {dtype} cannot be made here: import the library that it was saved with")


def _large_pages(address: int, count: int) -> None:
    """Ask for pages of 2 MiB in fresh memory: touching it for the first time is what a restore into new tensors costs most."""
    begin = -(-address // PAGE) * PAGE
    size = (address + count) // PAGE * PAGE - begin
    if size >= LARGE_PAGE:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), MADV_HUGEPAGE)


def move(target: int, source: int, count: int) -> None:
    """Copy ``count`` bytes between addresses; the interpreter's lock is not held meanwhile."""
    ctypes.memmove(target, source, count)


def address_of_bytes(data: bytes) -> int:
    """The address of a bytes object's content; it stays where it is while the object is held."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def fills_run(tensor: Any) -> bool:
    """Whether a torch tensor's elements fill one run of memory, in whatever order, as in channels_last."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True


def fits_scratch(leaf: Leaf, used: int) -> bool:
    return leaf.bytes <= limits.SCRATCH_LEAF_BYTES and used + leaf.bytes <= limits.SCRATCH_BYTES


def is_dense(tensor: Any) -> bool:
    """Whether its bytes are one run in row-major order, as they will be stored."""
    if isinstance(tensor, _ndarray()):
        return bool(tensor.flags["C_CONTIGUOUS"] and tensor.dtype.isnative)
    return bool(tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg())


def _numpy_leaf(name: str, array: Any) -> Leaf:
    dtype = dtypes.of_numpy(array.dtype)
    if dtype is None:
        raise UnsupportedTensor(f"array '{name}' is of {array.dtype}, which the file format cannot hold")
    leaf = Leaf(name, "numpy", dtype, tuple(array.shape), int(array.nbytes), address_of(array), array)
    if array.nbytes and not is_dense(array):
        keep(leaf)
    return leaf


def _ndarray() -> Any:
    """numpy.ndarray, or a class without instances where numpy is not imported."""
    return getattr(sys.modules.get("numpy"), "ndarray", _Nothing)


class _Nothing:
    pass


def count(shape: Sequence[int]) -> int:
    return math.prod(shape)
