"""Leaves that are neither tensors nor plain values: pickled, and read back with a restricted unpickler.

An unpickler runs what the file names. Only names on the list below are let through, unless the caller allows more.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from .errors import CairnError, PickleRefused

AllowPickle = bool | Callable[[str, str], bool]
"""False: the harmless list. True: everything (as pickle itself: only for files that one trusts). A callable is asked for
each (module, name) that is not on the list."""

HARMLESS: frozenset[tuple[str, str]] = frozenset(
    {("builtins", name) for name in ("set", "frozenset", "bytearray", "complex", "slice", "range", "object")}
    | {("collections", name) for name in ("OrderedDict", "defaultdict", "deque", "Counter")}
    | {("builtins", name) for name in ("int", "float", "bool", "str", "bytes", "list", "tuple", "dict")}
    | {("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")}
    | {("pathlib", name) for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")}
    | {("pathlib._local", name) for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")}
    | {("decimal", "Decimal"), ("fractions", "Fraction"), ("uuid", "UUID"), ("copyreg", "_reconstructor")}
    | {("types", "SimpleNamespace"), ("_codecs", "encode")}
    | {("numpy", "dtype"), ("numpy", "ndarray")}
    | {(module, name) for module in ("numpy._core.multiarray", "numpy.core.multiarray") for name in ("scalar", "_reconstruct")}
    | {("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer")}
)
"""Constructors that do nothing but hold their arguments."""


class _Restricted(pickle.Unpickler):
    def __init__(self, data: bytes, where: str, allow: AllowPickle) -> None:
        super().__init__(io.BytesIO(data))
        self._where = where
        self._allow = allow

    def find_class(self, module: str, name: str) -> Any:
        allowed = self._allow if isinstance(self._allow, bool) else self._allow(module, name)
        if not allowed and (module, name) not in HARMLESS:
            raise PickleRefused(
                f"'{self._where}' was stored as a pickle that needs {module}.{name}, which may run code: pass "
                "allow_pickle=True, or a function of (module, name), if the file is to be trusted"
            )
        return super().find_class(module, name)


def dump(value: object, where: str) -> bytes:
    """Pickle one leaf; ``where`` is its path, for the error."""
    try:
        return pickle.dumps(value, protocol=4)
    except Exception as failure:  # whatever a class's own __reduce__ raises
        raise CairnError(f"'{where}' of type {type(value).__name__} cannot be saved: {failure}") from failure


def load(data: bytes, where: str, allow: AllowPickle) -> Any:
    """Read one leaf back.

    Raises:
        PickleRefused: it names something that is neither harmless nor allowed.
        CairnError: it does not unpickle.
    """
    try:
        return _Restricted(data, where, allow).load()
    except PickleRefused:
        raise
    except Exception as failure:  # a pickle can raise anything
        raise CairnError(f"'{where}' does not unpickle: {failure}") from failure
