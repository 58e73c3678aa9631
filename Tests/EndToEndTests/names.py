"""Names on a filesystem as they appear and go: they tell the moments at which a crash is worth most."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
from pathlib import Path

# inotify: CREATE also tells of a link, MOVED_TO of a rename.
CREATE, MOVED_TO, DELETE = 0x100, 0x80, 0x200
_HEAD = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Names:
    """Tells of names as they appear and go below a folder, and in its subfolders."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._descriptor >= 0, os.strerror(ctypes.get_errno())
        self._folders: dict[int, Path] = {}
        self._watch(folder)

    def _watch(self, folder: Path) -> None:
        number = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), CREATE | MOVED_TO | DELETE)
        if number < 0:
            return  # gone meanwhile, or the filesystem is down
        self._folders[number] = folder
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if entry.is_dir():
                    self._watch(Path(entry.path))

    def next(self, seconds: float) -> list[tuple[int, str]]:
        """What happened, as kind and name; empty when nothing did for so long."""
        if not select.select([self._descriptor], [], [], max(0.0, seconds))[0]:
            return []
        data, found = os.read(self._descriptor, 1 << 16), []
        while data:
            number, mask, _, length = _HEAD.unpack_from(data)
            name = data[_HEAD.size : _HEAD.size + length].rstrip(b"\0").decode()
            data = data[_HEAD.size + length :]
            found.append((mask & (CREATE | MOVED_TO | DELETE), name))
            if mask & CREATE and mask & 0x40000000 and number in self._folders:
                self._watch(self._folders[number] / name)
        return found

    def close(self) -> None:
        os.close(self._descriptor)
