"""What a job of very many ranks costs its shared folder: ``make scale`` (SCALE=full for 8,192 ranks).

Runs ``cairn-scale`` twice on one real folder: once for seconds and sizes, once under strace, which counts what the kernel was
asked. Counting is done there and not in our own code, so that nothing can be forgotten and the code that is measured is the one
that ships; a tracer slows each call down, hence two runs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What each system call is to a filesystem's metadata service. Reads and writes are counted by bytes.
KINDS = {
    "open": "open",
    "openat": "open",
    "openat2": "open",
    "stat": "stat",
    "fstat": "stat",
    "newfstatat": "stat",
    "statx": "stat",
    "mkdirat": "mkdir",
    "linkat": "link",
    "renameat": "rename",
    "renameat2": "rename",
    "unlinkat": "unlink",
    "getdents64": "list",
    "fsync": "fsync",
    "fdatasync": "fsync",
    "fchmod": "attribute",
    "fchown": "attribute",
    "ftruncate": "attribute",
    "fallocate": "attribute",
    "flock": "attribute",
    "statfs": "attribute",
    "fstatfs": "attribute",
    "ioctl": "attribute",
    "copy_file_range": "copy",
    "pread64": "read",
    "pwrite64": "write",
}
COLUMNS = ["open", "folder", "create", "stat", "mkdir", "link", "rename", "unlink", "names", "fsync", "attribute", "copy"]
LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)$")
RESULT = re.compile(r"= (-?\d+)[^=]*$")
ENTRIES = re.compile(r"/\* (\d+) entries \*/")
PATH = re.compile(r'"([^"]*)"')


@dataclass
class Counts:
    """What one phase of one node asked for."""

    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    read: int = 0
    written: int = 0

    def add(self, other: Counts) -> None:
        for kind, count in other.calls.items():
            self.calls[kind] += count
        self.read += other.read
        self.written += other.written

    @property
    def operations(self) -> int:
        """Calls to a metadata service: all but the names that a folder's listing gave."""
        return sum(count for kind, count in self.calls.items() if kind != "names")


def lines(log: Iterable[str]) -> Iterator[tuple[str, str, bool, int | None]]:
    """The tracer's lines: call, arguments, whether it begins here, result if it ends here."""
    for line in log:
        match = LINE.match(line)
        if match is None:
            continue
        text = match[4]
        result = None if text.rstrip().endswith("<unfinished ...>") else RESULT.search(text)
        yield match[2] or match[3], text, match[3] is not None, None if result is None else int(result[1])


def count(log: Iterable[str], folder: str) -> dict[tuple[str, int], Counts]:
    """By phase and node. Marks are opens of /cairn-scale/PHASE/NODE; what lies outside the folder is not the job's."""
    found: dict[tuple[str, int], Counts] = defaultdict(Counts)
    now = Counts()
    for name, text, begins, result in lines(log):
        kind = KINDS.get(name)
        if kind is None:
            continue
        if begins and kind == "open":
            path = PATH.search(text)
            if path is not None and path[1].startswith("/cairn-scale/"):
                phase, node = path[1].split("/")[2:4]
                now = found[phase, int(node)]
                continue
            if path is not None and path[1].startswith("/") and not path[1].startswith(folder):
                continue
            if "O_CREAT" in text:
                kind = "create"
            elif "O_DIRECTORY" in text:
                kind = "folder"
        if kind == "read":
            now.read += max(0, result or 0)
        elif kind == "write":
            now.written += max(0, result or 0)
        elif kind == "list":
            entries = ENTRIES.search(text)
            now.calls["names"] += int(entries[1]) if entries else 0
        elif begins:
            now.calls[kind] += 1
    return found


@dataclass
class Timed:
    """What the program itself said: nanoseconds by phase and node, and sizes of records."""

    phases: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    sizes: dict[str, int] = field(default_factory=dict)


def timed(output: str) -> Timed:
    found = Timed()
    for line in output.splitlines():
        word, *rest = line.split()
        if word == "phase":
            found.phases[rest[0]][int(rest[1])] += int(rest[2])
        elif word == "size":
            found.sizes[rest[0]] = int(rest[1])
        elif word == "resident":
            found.sizes[f"resident-after-{rest[0]}"] = int(rest[2])
    return found


def bytes_text(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def table(counts: dict[tuple[str, int], Counts], clock: Timed) -> list[str]:
    """A row for rank 0's node and one for the others' mean, where a phase has both."""
    text = ["| phase | node | ops | " + " | ".join(COLUMNS) + " | read | written | seconds |", "|---" * (len(COLUMNS) + 6) + "|"]
    for phase, nodes in clock.phases.items():
        if phase == "start":
            continue
        for label, members in (("rank 0's", [0]), ("each other", [node for node in nodes if node != 0])):
            members = [node for node in members if node in nodes]
            if not members:
                continue
            total = Counts()
            for node in members:
                total.add(counts.get((phase, node), Counts()))
            seconds = sum(nodes[node] for node in members) / len(members) / 1e9
            cells = [phase, f"{label} ({len(members)})" if len(members) > 1 else label, f"{total.operations / len(members):.0f}"]
            cells += [f"{total.calls[kind] / len(members):.0f}" for kind in COLUMNS]
            cells += [bytes_text(total.read / len(members)), bytes_text(total.written / len(members)), f"{seconds:.4f}"]
            text.append("| " + " | ".join(cells) + " |")
    return text


def run(arguments: list[str], folder: Path, limit: int) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise SystemExit(f"scale: '{' '.join(arguments)}' ended with {done.returncode}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--tensors", type=int, default=400)
    parser.add_argument("--loading", type=int, default=3, help="nodes that load")
    parser.add_argument("--asking", type=int, default=16, help="nodes that publish between two asks for the decision")
    parser.add_argument("--folder", help="an empty or missing folder on the filesystem to measure")
    parser.add_argument("--binary", default=os.environ.get("CAIRN_BIN", str(ROOT / ".build/release")) + "/cairn-scale")
    parser.add_argument("--limit", type=int, default=3600, help="seconds that one of the two runs may take")
    parser.add_argument("--no-trace", action="store_true", help="seconds and sizes only")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cairn-scale-") as scratch:
        folder = Path(chosen.folder or f"{scratch}/tier").resolve()
        if folder.exists() and any(folder.iterdir()):
            raise SystemExit(f"scale: '{folder}' is not empty")
        command = [chosen.binary, str(folder), str(chosen.ranks), str(chosen.per_node), str(chosen.tensors)]
        command += [str(chosen.loading), str(chosen.asking)]
        began = time.monotonic()
        clock = timed(run(command, folder, chosen.limit))
        counts: dict[tuple[str, int], Counts] = {}
        if not chosen.no_trace:
            if shutil.which("strace") is None:
                raise SystemExit("scale: strace, which counts the calls, is not installed; --no-trace does without")
            log = Path(scratch) / "calls"
            calls = ",".join(f"?{name}" for name in KINDS)
            tracer = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "0", "-e", "signal=none"]
            run([*tracer, "-e", f"trace={calls}", "-o", str(log), *command], folder, chosen.limit)
            with log.open(encoding="utf-8", errors="replace") as lines_of_log:
                counts = count(lines_of_log, str(folder))
        shutil.rmtree(folder)
    nodes = -(-chosen.ranks // chosen.per_node)
    print(f"{chosen.ranks} ranks on {nodes} nodes, {chosen.tensors} tensors, {chosen.per_node} ranks a node\n")
    print("\n".join(table(counts, clock)))
    print()
    print("; ".join(f"{name.replace('-', ' ')} {bytes_text(size)}" for name, size in clock.sizes.items()))
    print(f"took {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
