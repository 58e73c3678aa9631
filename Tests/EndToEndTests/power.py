"""Disks that lose power: XFS or ext4 on a file, whose every unsynced change is gone after `shutdown`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GOING_DOWN = 0x8004587D
"""What `xfs_io -x -c shutdown` calls, of ext4 too: by hand it takes no process, so the moment is exact."""
WITHOUT_LOG = struct.pack("I", 2)
"""What is in the journal's memory is lost as well."""
FREEZE, THAW = 0xC0045877, 0xC0045878
IMAGE, INNER_IMAGE = "1500M", "1G"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def _format(image: Path, size: str, filesystem: str) -> None:
    _run("truncate", "-s", size, str(image))
    _run(f"mkfs.{filesystem}", "-q", "-f" if filesystem == "xfs" else "-F", str(image))


def _is_mounted(where: Path) -> bool:
    """By the kernel's list: a stat of a filesystem that is down is an error."""
    return any(line.split()[1] == str(where) for line in Path("/proc/self/mounts").read_text().splitlines())


class Disk:
    """A filesystem whose power can be cut.

    ``volatile``: the drive below has a cache of its own, whose content is lost too, back to its last FLUSH. It is the file of a
    second filesystem, which loses what the first did not sync there."""

    def __init__(self, folder: Path, *, volatile: bool, filesystem: str = "xfs") -> None:
        self.where = folder / "disk"
        self._outer = folder / "drive"
        self._image = folder / "image"
        self._volatile = volatile
        self._filesystem = filesystem
        self._switch: int | None = None
        self._frozen = False
        self.where.mkdir(parents=True)
        if os.getuid() != 0:
            pytest.skip("only root can mount")
        try:
            self._make(folder)
        except (FileNotFoundError, subprocess.CalledProcessError) as failure:
            self.remove()
            pytest.skip(f"no {filesystem} on a file here: {getattr(failure, 'stderr', b'') or failure!r}")

    def _make(self, folder: Path) -> None:
        if self._volatile:
            self._outer.mkdir()
            _format(self._image, IMAGE, "xfs")
            _run("mount", "-o", "loop", str(self._image), str(self._outer))
            _format(self._outer / "image", INNER_IMAGE, self._filesystem)
            _run("sync", "-f", str(self._outer))
            _run("mount", "-o", "loop", str(self._outer / "image"), str(self.where))
        else:
            _format(self._image, INNER_IMAGE, self._filesystem)
            _run("mount", "-o", "loop", str(self._image), str(self.where))
        self._open()

    def _open(self) -> None:
        self._switch = os.open(self._outer if self._volatile else self.where, os.O_RDONLY | os.O_CLOEXEC)

    def _close(self) -> None:
        if self._switch is not None:
            os.close(self._switch)
            self._switch = None

    def cut(self) -> None:
        """The power goes."""
        assert self._switch is not None
        fcntl.ioctl(self._switch, GOING_DOWN, WITHOUT_LOG)

    def freeze(self) -> None:
        """It takes no more changes, and whoever makes one hangs, until ``thaw`` or the end."""
        assert self._switch is not None
        fcntl.ioctl(self._switch, FREEZE, 0)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen and self._switch is not None:
            fcntl.ioctl(self._switch, THAW, 0)
        self._frozen = False

    def revive(self) -> None:
        """The power is back: what was synced is there."""
        self._unmount()
        if self._volatile:
            _run("mount", "-o", "loop", str(self._image), str(self._outer))
            _run("mount", "-o", "loop", str(self._outer / "image"), str(self.where))
        else:
            _run("mount", "-o", "loop", str(self._image), str(self.where))
        self._open()

    def _unmount(self) -> None:
        self.thaw()
        self._close()
        for where in (self.where, self._outer):
            # Busy for a moment after the death of a process that had I/O in flight there.
            for _ in range(200):
                if not _is_mounted(where):
                    break
                if subprocess.run(["umount", str(where)], capture_output=True, timeout=30).returncode != 0:
                    time.sleep(0.05)
            else:
                raise RuntimeError(f"{where} cannot be unmounted")

    def remove(self) -> None:
        self._unmount()
        shutil.rmtree(self.where.parent, ignore_errors=True)


@contextlib.contextmanager
def disks(folder: Path, **options: Any) -> Iterator[dict[str, Disk]]:
    """One for each tier; unmounted and removed at the end, whatever happened."""
    made: dict[str, Disk] = {}
    try:
        for tier in ("local", "global"):
            made[tier] = Disk(folder / tier, **options)
        yield made
    finally:
        for disk in made.values():
            disk.remove()
