"""What the machine can do at best: the units of all ratios."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import subprocess
import time
from pathlib import Path

from machine import about

MIB = 1 << 20
HUGE = 14
"""MADV_HUGEPAGE. MADV_NOHUGEPAGE is one more."""
HUGE_BUFFERS = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""fio's buffers in huge pages: a drive takes them in fewer requests, which is up to 1.6 times as fast."""
BLOCKS_AND_DEPTHS = ((1, 16), (1, 32), (4, 8), (4, 16), (8, 4), (8, 16))
"""MiB and requests in flight that fio tries, once for each direction; the best is the limit."""


class Memcpy:
    """One thread copies between two anonymous mappings whose pages are all there: huge ones where torch's tensors have them."""

    def __init__(self, size: int) -> None:
        huge = about()["hugePages"] == "always"
        self._size = size
        self._maps = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
        for mapped in self._maps:
            mapped.madvise(HUGE if huge else HUGE + 1)
        self._addresses = [ctypes.addressof(ctypes.c_char.from_buffer(mapped)) for mapped in self._maps]
        for address in self._addresses:
            ctypes.memset(address, 1, size)

    def speed(self) -> float:
        """Bytes per second; the best of three, as the limit is what nothing disturbs."""
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            ctypes.memmove(self._addresses[0], self._addresses[1], self._size)
            best = min(best, time.perf_counter() - began)
        return self._size / best


class Drive:
    """What fio reaches in a folder with O_DIRECT and io_uring, fsync counted, at the best of some block sizes and depths.

    Where the kernel or the filesystem refuses io_uring or O_DIRECT it is libaio or buffered: ``how`` says what it is."""

    def __init__(self, folder: Path, size: int, *, quick: bool = False) -> None:
        self._file, self._size = folder / "fio.data", size
        self._engine, self._direct = "", 1
        self.how: dict[str, str] = {}
        self._best: dict[str, tuple[int, int]] = {}
        if shutil.which("fio") is None:
            raise SystemExit("bench: fio is needed for the drive's limit: apt-get install fio")
        for engine, direct in (("io_uring", 1), ("libaio", 1), ("psync", 0)):
            self._engine, self._direct = engine, direct
            if self._run("write", 4, 4) is not None:
                break
        for direction in ("write", "read"):
            found = {pair: self._run(direction, *pair) or 0.0 for pair in BLOCKS_AND_DEPTHS[-1 if quick else 0 :]}
            block, depth = self._best[direction] = max(found, key=lambda pair: found[pair])
            self.how[direction] = f"{self._engine}, {'O_DIRECT' if self._direct else 'buffered'}, {block} MiB, depth {depth}"

    def write(self) -> float:
        """Bytes per second into a new file, fsync counted."""
        return self._speed("write")

    def read(self) -> float:
        """Bytes per second of what ``write`` wrote."""
        return self._speed("read")

    def close(self) -> None:
        self._file.unlink(missing_ok=True)

    def _speed(self, direction: str) -> float:
        speed = self._run(direction, *self._best[direction])
        if speed is None:
            raise RuntimeError(f"fio cannot {direction} '{self._file}' any more")
        return speed

    def _run(self, direction: str, block: int, depth: int) -> float | None:
        if direction == "write":
            self._file.unlink(missing_ok=True)
        done = subprocess.run(
            ["fio", "--name=limit", f"--filename={self._file}", f"--size={self._size}", f"--bs={block}M", f"--iodepth={depth}",
             f"--rw={direction}", f"--direct={self._direct}", f"--ioengine={self._engine}", "--end_fsync=1", "--thread",
             "--invalidate=1", "--output-format=json"],
            capture_output=True, text=True, timeout=300, check=False, env=os.environ | HUGE_BUFFERS,
        )  # fmt: skip
        if done.returncode != 0:
            return None
        job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        return self._size * 1000 / float(job["job_runtime"])
