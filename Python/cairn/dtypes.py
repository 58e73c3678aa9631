"""Cairn's dtype names, which are safetensors', and those that the format lacks; to and from torch's and numpy's.

Neither library is imported here: where the trainer has not imported it, no tensor of it can exist.
"""

from __future__ import annotations

import sys
from typing import Any

BYTES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
    "C128": 16,
}  # fmt: skip
"""Bytes of one element."""

_FLOATS = frozenset(name for name in BYTES if name.startswith(("F", "BF")))
_COMPLEX = frozenset({"C64", "C128"})


def can_cast(saved: str, wanted: str) -> bool:
    """Whether one is only a more or less precise form of the other."""
    return {saved, wanted} <= _FLOATS or {saved, wanted} <= _COMPLEX


_TORCH: dict[str, str] = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "int16": "I16",
    "uint16": "U16", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "uint32": "U32", "float32": "F32",
    "int64": "I64", "uint64": "U64", "float64": "F64", "complex64": "C64", "complex128": "C128",
}  # fmt: skip

_NUMPY: dict[str, str] = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16", "int32": "I32",
    "uint32": "U32", "float32": "F32", "int64": "I64", "uint64": "U64", "float64": "F64", "complex64": "C64",
    "complex128": "C128", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""The last six are ml_dtypes' names."""

_torch_by_dtype: dict[Any, str] = {}


def of_torch(dtype: Any) -> str | None:
    """Cairn's name of a torch.dtype; None where Cairn has none (quantized, sub-byte, complex32)."""
    if not _torch_by_dtype:
        torch = sys.modules["torch"]
        for attribute, name in _TORCH.items():
            found = getattr(torch, attribute, None)
            if found is not None:
                _torch_by_dtype[found] = name
    return _torch_by_dtype.get(dtype)


def of_numpy(dtype: Any) -> str | None:
    """Cairn's name of a numpy.dtype, whatever its byte order; None for structured, object and text types."""
    return _NUMPY.get(dtype.name) if dtype.names is None and dtype.subdtype is None else None


def to_torch(name: str) -> Any:
    """The torch.dtype of one of Cairn's names; None where this torch lacks it."""
    torch = sys.modules["torch"]
    for attribute, other in _TORCH.items():
        if other == name:
            return getattr(torch, attribute, None)
    return None


def to_numpy(name: str) -> Any:
    """The numpy.dtype of one of Cairn's names; those of ml_dtypes need it imported, else None."""
    numpy = sys.modules["numpy"]
    for attribute, other in _NUMPY.items():
        if other == name:
            try:
                return numpy.dtype(attribute)
            except TypeError:
                return None
    return None
