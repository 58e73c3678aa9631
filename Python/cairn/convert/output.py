"""A file or folder that has its name only once it is whole and synced.

    .NAME.TOKEN.part   while it is written; what a killed export left can be removed
    NAME               after fsync of all in it, by link (file) or rename (folder), and fsync of the folder around it
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import CannotConvert


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Gives the path to write to; at the end of the block ``path`` is there, or, where that raised, nothing is.

    Raises:
        CannotConvert: something has the name already, or it cannot be written."""
    if os.path.lexists(path):
        raise CannotConvert(f"'{path}' is there already, and nothing is overwritten: name another one, or remove it")
    if not path.name or not path.parent.is_dir():
        raise CannotConvert(f"'{path}' cannot be made: '{path.parent}' is no folder; make it first")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        for place in [*sorted(part.rglob("*")), part] if part.is_dir() else [part]:
            _sync(place)
        if part.is_dir():
            os.rename(part, path)  # refused where a folder with something in it has come meanwhile
        else:
            os.link(part, path)  # refused where anything has
            os.unlink(part)
        _sync(path.parent)
    except OSError as failure:
        raise CannotConvert(f"cannot write '{path}': {failure.strerror or failure}; free space, or name another place") from failure
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
