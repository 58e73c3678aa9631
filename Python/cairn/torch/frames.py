"""What stands before a tensor's bytes in a rank's file, so that torch.load() reads both as one file: torch.save()'s older form.

    pickle   torch's magic number
    pickle   1001, the form's version
    pickle   {"protocol_version": 1001, "little_endian": true, "type_sizes": {…}, "pad": "…"}
    pickle   the tensor: _rebuild_tensor_v2 or _v3, its storage by a persistent id
    pickle   ["0"], the storages that follow
    u64      elements of the storage
    bytes    the tensor's, row-major: those of the shard itself

That form, unlike the zip of today's torch.save(), has nothing behind a tensor's bytes and no checksum of them, so it can be
written before they are known. Source: torch/serialization.py, _legacy_save and _legacy_load.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

ALIGNMENT = 16
"""A frame is whole elements of every dtype, so that the tensor after it stays aligned."""

_TYPED: dict[torch.dtype, str] = {
    torch.float64: "DoubleStorage", torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage", torch.int32: "IntStorage", torch.int16: "ShortStorage", torch.int8: "CharStorage",
    torch.uint8: "ByteStorage", torch.bool: "BoolStorage",
    torch.complex128: "ComplexDoubleStorage", torch.complex64: "ComplexFloatStorage",
}  # fmt: skip
"""Those that have a storage class of their own; the others are bytes with a dtype."""

_made: dict[tuple[torch.dtype, tuple[int, ...]], bytes] = {}


class _Storage:
    """Stands for the storage while the tensor around it is pickled."""


class _Tensor:
    def __init__(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        self._dtype = dtype
        self._shape = tuple(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        strides, stride = [], 1
        for length in reversed(self._shape):
            strides.append(stride)
            stride *= max(1, length)
        arguments: tuple[Any, ...] = (_Storage(), 0, self._shape, tuple(reversed(strides)), False, OrderedDict())
        utils: Any = torch._utils
        if self._dtype in _TYPED:
            return utils._rebuild_tensor_v2, arguments
        return utils._rebuild_tensor_v3, (*arguments, self._dtype)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, storage: tuple[object, ...]) -> None:
        super().__init__(stream, protocol=2)
        self._storage = storage

    def persistent_id(self, node: Any) -> Any:
        return self._storage if isinstance(node, _Storage) else None


def frame(dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """The bytes before a tensor of this dtype and shape: one object for good, since the daemon reads it where it is."""
    key = (dtype, tuple(shape))
    made = _made.get(key)
    if made is None:
        short = _render(dtype, key[1], "")
        made = _made[key] = _render(dtype, key[1], " " * (-len(short) % ALIGNMENT))
        assert len(made) % ALIGNMENT == 0
    return made


def _render(dtype: torch.dtype, shape: tuple[int, ...], pad: str) -> bytes:
    count = torch.Size(shape).numel()
    name = _TYPED.get(dtype)
    elements = count if name is not None else count * dtype.itemsize
    kind = getattr(torch, name or "ByteStorage")
    stream = io.BytesIO()
    about = {
        "protocol_version": PROTOCOL_VERSION,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
        "pad": pad,
    }
    for value in (MAGIC_NUMBER, PROTOCOL_VERSION, about):
        pickle.dump(value, stream, protocol=2)
    _Pickler(stream, ("storage", kind, "0", "cpu", elements, None)).dump(_Tensor(dtype, shape))
    pickle.dump(["0"], stream, protocol=2)
    stream.write(struct.pack("<q", elements))
    return stream.getvalue()
