"""What the machine can do at best, and what processes cost: the units of the comparison."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import torch

_TICKS = os.sysconf("SC_CLK_TCK")


def memcpy_seconds(tensors: list[torch.Tensor], copies: list[torch.Tensor]) -> float:
    """One thread copies the state into memory that is already there."""
    began = time.perf_counter()
    for source, target in zip(tensors, copies, strict=True):
        target.copy_(source)
    return time.perf_counter() - began


def fio_bytes_per_second(folder: Path, direction: str, size: int) -> float | None:
    """The drive's own limit: O_DIRECT io_uring, blocks of 8 MiB, 16 in flight, fsync counted. None without fio."""
    if shutil.which("fio") is None:
        return None
    file = folder / "fio.data"
    command = ["fio", "--name=limit", f"--filename={file}", f"--size={size}", "--bs=8M", "--iodepth=16", "--direct=1",
               f"--rw={direction}", "--end_fsync=1", "--thread", "--output-format=json"]  # fmt: skip
    for engine in ("io_uring", "libaio", "psync"):
        done = subprocess.run([*command, f"--ioengine={engine}"], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0:
            job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
            if direction == "read":
                file.unlink()
            return size / (job["job_runtime"] / 1000)
    return None


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far; one that has gone counts nothing."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def family(pid: int) -> list[int]:
    """A process and its children, as the kernel lists them."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(one for child in children for one in family(child))]


def forget_pages(folder: Path) -> None:
    """Takes a folder's files out of the page cache, so that a load reads the drive. Needs no root: they are synced."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
