"""What each mechanism buys: the same work with and without it, by turns in one run, over the limit that it is to come close to.

Staging is done here as the stager does it (process_vm_readv in blocks into a mapped memfd, CRC32C of ISA-L over each block), one
thing changed at a time; writing is fio's, so that what io_uring offers can be tried without code of ours; the last table is Cairn
itself with other settings. A figure is the median of the rounds with the least and the most. `--json FILE` keeps all rows.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from process import ROOT, prepare
from results import Rows, spread

MIB = 1 << 20
BLOCK = 256 << 10
"""Bytes that the stager copies and sums at a time."""
HUGE_PAGES, NO_HUGE_PAGES = 14, 15
"""MADV_HUGEPAGE, MADV_NOHUGEPAGE."""
FIO = ["--bs=8M", "--iodepth=8", "--ioengine=io_uring", "--direct=1"]
WRITES: dict[str, list[str]] = {
    "io_uring, O_DIRECT, 8 MiB, depth 8": [],
    "registered buffers": ["--fixedbufs=1"],
    "registered files": ["--registerfiles=1"],
    "both, and a polling kernel thread": ["--fixedbufs=1", "--registerfiles=1", "--sqthread_poll=1"],
    "depth 1": ["--iodepth=1"],
    "depth 2": ["--iodepth=2"],
    "depth 32": ["--iodepth=32"],
    "blocks of 1 MiB, depth 64": ["--bs=1M", "--iodepth=64"],
    "blocks of 256 KiB, depth 256": ["--bs=256k", "--iodepth=256"],
    "threads with pwrite: 8": ["--ioengine=psync", "--iodepth=1", "--numjobs=8"],
    "threads with pwrite: 4": ["--ioengine=psync", "--iodepth=1", "--numjobs=4"],
    "buffered": ["--direct=0"],
}
SETTINGS = {
    "as it comes": "",
    "threads in place of io_uring": ", io: threads",
    "buffered in place of O_DIRECT": ", direct: off",
}


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.process_vm_readv.restype = ctypes.c_ssize_t
LIBC.pread.restype = ctypes.c_ssize_t


def crc32c() -> Callable[[int, int], int]:
    """ISA-L's, of bytes at an address."""
    name = ctypes.util.find_library("isal")
    if name is None:
        raise SystemExit("ablation: ISA-L is needed: apt-get install libisal2")
    function = ctypes.CDLL(name).crc32_iscsi
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint]
    function.restype = ctypes.c_uint
    return lambda address, count: int(function(address, count, 0xFFFFFFFF))


class Memory:
    """A mapping whose address is known; anonymous, or of a memfd."""

    def __init__(self, size: int, *, shared: bool = False, huge: bool = False, touched: bool = True) -> None:
        if shared:
            descriptor = os.memfd_create("pool")
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
            os.close(descriptor)
        else:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(HUGE_PAGES if huge else NO_HUGE_PAGES)
        self._anchor: Any = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        if touched:
            ctypes.memset(self.address, 1, size)

    def close(self) -> None:
        self._anchor = None
        self._map.close()


@contextmanager
def trainer(memory: Memory) -> Iterator[int]:
    """The pid of a process that has ``memory`` to itself; this process's own copy is dropped by the fork's other side only."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, b"1")
        signal.pause()
        os._exit(0)
    try:
        os.read(ready, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)


class Staging:
    """``size`` bytes from a process that stands for a rank into memory that stands for the pool."""

    def __init__(self, size: int) -> None:
        self._size, self._sum = size, crc32c()
        self._pool = Memory(size, shared=True)
        self._own = Memory(size)

    def variants(self) -> dict[str, Callable[[], float]]:
        """Each gives the seconds that it took."""
        return {
            "blocks of 256 KiB, each summed while it is in the cache": lambda: self._time(),
            "no checksum": lambda: self._time(sums="none"),
            "checksum in a pass of its own": lambda: self._time(sums="later"),
            "blocks of 64 KiB": lambda: self._time(block=64 << 10),
            "blocks of 1 MiB": lambda: self._time(block=MIB),
            "blocks of 8 MiB": lambda: self._time(block=8 * MIB),
            "two threads": lambda: self._time(threads=2),
            "pread of /proc/PID/mem": lambda: self._time(by_file=True),
            "the rank's memory in huge pages": lambda: self._time(huge=True),
            "pool not made present before": lambda: self._time(fresh=True),
        }

    def memcpy(self) -> float:
        began = time.perf_counter()
        ctypes.memmove(self._pool.address, self._own.address, self._size)
        return time.perf_counter() - began

    def _time(self, *, sums: str = "fused", block: int = BLOCK, threads: int = 1, by_file: bool = False, huge: bool = False,
              fresh: bool = False) -> float:  # fmt: skip
        source = Memory(self._size, huge=huge)
        target = Memory(self._size, shared=True, touched=False) if fresh else self._pool
        try:
            with trainer(source) as pid:
                file = os.open(f"/proc/{pid}/mem", os.O_RDONLY) if by_file else -1
                share = -(-self._size // block // threads) * block
                parts = [(begin, min(self._size, begin + share)) for begin in range(0, self._size, share)]
                workers = [
                    threading.Thread(target=self._copy, args=(pid, file, source.address, target.address, part, block, sums))
                    for part in parts
                ]
                began = time.perf_counter()
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                taken = time.perf_counter() - began
                if by_file:
                    os.close(file)
            if ctypes.string_at(target.address + self._size - 64, 64) != b"\1" * 64:
                raise RuntimeError("the bytes did not arrive")
            return taken
        finally:
            source.close()
            if fresh:
                target.close()

    def _copy(self, pid: int, file: int, source: int, target: int, part: tuple[int, int], block: int, sums: str) -> None:
        local, remote = Vector(), Vector()
        for begin in range(part[0], part[1], block):
            count = min(block, part[1] - begin)
            if file >= 0:
                moved = LIBC.pread(file, ctypes.c_void_p(target + begin), ctypes.c_size_t(count), ctypes.c_long(source + begin))
            else:
                local.base, local.bytes, remote.base, remote.bytes = target + begin, count, source + begin, count
                moved = LIBC.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
            if moved != count:
                raise OSError(ctypes.get_errno(), "reading a rank's memory")
            if sums == "fused":
                self._sum_blocks(target + begin, count)
        if sums == "later":
            self._sum_blocks(target + part[0], part[1] - part[0])

    def _sum_blocks(self, address: int, count: int) -> None:
        for begin in range(0, count, BLOCK):
            self._sum(address + begin, min(BLOCK, count - begin))


def fio(file: Path, size: int, options: list[str]) -> dict[str, float] | None:
    """Bytes per second with fsync, and the processor's seconds per GB; None where the kernel refuses it."""
    file.unlink(missing_ok=True)
    jobs = next((int(option.partition("=")[2]) for option in options if option.startswith("--numjobs")), 1)
    command = ["fio", "--name=write", f"--filename={file}", "--rw=write", f"--size={size // jobs}", "--end_fsync=1", "--thread",
               "--group_reporting", "--output-format=json", *FIO, *options]  # fmt: skip
    if jobs > 1:
        command += [f"--offset_increment={size // jobs}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        return None
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    seconds = job["job_runtime"] / jobs / 1000
    return {"speed": size / seconds, "cpu": (job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds * jobs / size * 1e9}


def own(rows: Rows, folder: Path, binaries: Path, size: int, rounds: int) -> None:
    """Cairn with other settings of its local tier: durable there, and the processor's seconds of the daemon."""
    prepare()
    from daemon import Daemon
    from machine import cpu_seconds
    from workload import training_state

    import cairn

    state = training_state(size)
    for round in range(rounds):
        for number, (name, more) in enumerate(SETTINGS.items()):
            place = folder / f"own-{round}-{number}"
            place.mkdir()
            with (
                Daemon(binaries, place, pool=state.bytes + 64 * MIB, tiers=("local",), local=more) as daemon,
                cairn.Checkpointer("ablation", rank=0, world_size=1, socket=daemon.socket, attempt="1") as checkpointer,
            ):
                checkpointer.save(1, state.tree, lazy=True).wait("local")
                used, began = cpu_seconds(daemon.pids), time.monotonic()
                checkpointer.save(2, state.tree, lazy=True).wait("local")
                taken = time.monotonic() - began
                rows.add("own", name, round, speed=state.bytes / taken, cpu=(cpu_seconds(daemon.pids) - used) / state.bytes * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, metavar="MIB", default=512)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/var/tmp")), help="on the drive to measure")
    parser.add_argument("--json", type=Path, default=ROOT / ".build" / "ablation.json")
    parser.add_argument("--binaries", type=Path, default=Path(os.environ.get("CAIRN_BIN", ROOT / ".build" / "release")))
    given = parser.parse_args()
    rows, size = Rows(), given.size * MIB
    folder = Path(tempfile.mkdtemp(prefix="cairn-ablation.", dir=given.folder))
    try:
        staging = Staging(size)
        for round in range(given.rounds):
            rows.add("staging", "limit", round, speed=size / min(staging.memcpy() for _ in range(3)))
            for name, act in staging.variants().items():
                rows.add("staging", name, round, speed=size / act())
            for name, options in WRITES.items():
                found = fio(folder / "fio.data", size, options)
                if found is not None:
                    rows.add("writing", name, round, **found)
        (folder / "fio.data").unlink(missing_ok=True)
        own(rows, folder, given.binaries, size, given.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"load": os.getloadavg(), "size": size, "rows": rows.rows}, indent=1) + "\n")
    show(rows)


def show(rows: Rows) -> None:
    titles = {"staging": "Staging, over memcpy", "writing": "Writing by fio, over its best here", "own": "Cairn, local tier"}
    for measure, title in titles.items():
        speeds = {name: spread(rows.values("speed", measure=measure, subject=name))
                  for name in dict.fromkeys(row["subject"] for row in rows.where(measure=measure))}  # fmt: skip
        best = max(found.median for found in speeds.values() if found)
        limit = speeds.pop("limit", None)
        unit = limit.median if limit else best
        print(f"\n{title} ({unit / 1e9:.2f} GB/s)")
        for name, found in speeds.items():
            cpu = spread(rows.values("cpu", measure=measure, subject=name))
            if found:
                print(f"  {name:60} {found.median / unit:5.2f}  ({found.least / unit:.2f}-{found.most / unit:.2f})"
                      + (f"  {cpu.median:.2f} CPU s/GB" if cpu else ""))  # fmt: skip


if __name__ == "__main__":
    main()
