"""`cairn bench` on real folders, as an operator runs it: what it finds, and that nothing is left of it however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machine import Mounts, as_nobody, binary_beside, cli, until
from real_daemon import Cluster

SMALL = ["--size", "16MiB", "--seconds", "1"]
STATE = 16 << 20
SECONDS = 60


class Place:
    """A folder to measure beside one for temporary files."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.temporary, self.tier = folder / "tmp", folder / "tier"
        for made in (self.temporary, self.tier):
            made.mkdir()
            made.chmod(0o777)
        (self.tier / "kept").write_text("of somebody else")

    def start(self, *arguments: str, prefix: Callable[[list[str]], list[str]] = list) -> subprocess.Popen[str]:
        command = prefix([str(binary_beside("cairn")), "bench", *arguments])
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(self.temporary)}
        )

    def bench(self, *arguments: str, code: int = 0, prefix: Callable[[list[str]], list[str]] = list) -> str:
        """What it prints; its exit code must be as expected, and nothing be left."""
        with self.start(*arguments, prefix=prefix) as process:
            out, error = process.communicate(timeout=SECONDS)
        assert process.returncode == code, f"ended with {process.returncode}: {out}{error}"
        self.is_clean()
        return out if code == 0 else error

    def is_clean(self) -> None:
        assert list(self.temporary.iterdir()) == []
        assert [left.name for left in self.tier.iterdir()] == ["kept"]
        assert self.daemons() == []

    def daemons(self) -> list[int]:
        """Processes whose command line names the folder for temporary files, as its cairnd's does."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.temporary).encode() in entry.read_bytes():
                    found.append(int(entry.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
        return found


@pytest.fixture
def place(folder: Path) -> Place:
    return Place(folder)


def check_figures(found: dict[str, Any], paths: list[str]) -> None:
    measured = found["measurements"]
    assert measured["stateBytes"] == STATE
    assert [folder["path"] for folder in measured["folders"]] == paths
    memory = measured["memory"]
    assert 1e8 < memory["copyBytesPerSecond"] < 1e12
    assert memory["crc32cBytesPerSecond"] > 1e8
    for folder, told in zip(measured["folders"], found["folders"], strict=True):
        for save in folder["saves"]:
            assert 0 < save["acceptedSeconds"] <= save["stagedSeconds"] <= save["committedSeconds"] < 30
            assert save["stagedSeconds"] <= save["localSeconds"] <= save["committedSeconds"]
        assert {restore["tier"] for restore in folder["restores"]} == {"memory", "local"}
        assert {transfer["operation"] for transfer in folder["transfers"]} == {"write", "read"}
        assert all(1e5 < sample < 1e12 for transfer in folder["transfers"] for sample in transfer["samplesBytesPerSecond"])
        assert 0 < folder["publish"]["p50Seconds"] <= folder["publish"]["p99Seconds"]
        assert all(0 < told["reached"][share] < 10 for share in ("staged", "local", "memoryRestore", "tierRestore"))
        assert told["bottleneck"] in ("memory", "drive", "records", "rest")
    assert all(advice["text"] for advice in found["advice"])


def test_measures_a_folder_without_root_or_daemon(place: Place) -> None:
    found = json.loads(place.bench("--path", str(place.tier), "--json", *SMALL, prefix=as_nobody))
    check_figures(found, [str(place.tier)])
    assert found["measurements"]["wantedBytes"] == STATE


def test_shows_it_at_80_columns(place: Place) -> None:
    shown = place.bench("--path", str(place.tier), *SMALL)
    for word in (
        "copy, 1 thread",
        "8 MiB x 16, as Cairn does",
        "the best of them",
        "durable",
        "restored from the drive",
        "bottleneck: ",
    ):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_measures_the_tiers_of_a_running_daemon(place: Place, cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    before = cli(daemon, "ls", "--json")
    tiers = [str(daemon.local), str(daemon.shared)]
    check_figures(json.loads(place.bench("--socket", daemon.socket, "--json", *SMALL)), tiers)
    assert cli(daemon, "ls", "--json") == before
    for folder in tiers:
        assert not list(Path(folder).glob(".cairn-bench-*"))


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "limits"), (signal.SIGTERM, "daemon"), (signal.SIGINT, "save"), (signal.SIGHUP, "folder")],
)
def test_a_signal_leaves_nothing(place: Place, number: signal.Signals, moment: str) -> None:
    patterns = {
        "folder": "tier/.cairn-bench-*",
        "limits": "tier/.cairn-bench-*/data-*",
        "daemon": "tmp/.cairn-bench-*/s",
        "save": "tier/.cairn-bench-*/tier/*/*",
    }
    with place.start("--path", str(place.tier), "--size", "256MiB", "--seconds", "30") as process:
        until(moment, lambda: list(place.tier.parent.glob(patterns[moment])), seconds=SECONDS)
        process.send_signal(number)
        out, error = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, error) == (128 + number, "", "")
    place.is_clean()


def test_a_kill_leaves_no_process(place: Place) -> None:
    with place.start("--path", str(place.tier), *SMALL) as process:
        until("its cairnd", place.daemons, seconds=SECONDS)
        process.kill()
    until("its cairnd is gone", lambda: not place.daemons())


def test_a_folder_without_room_is_refused(place: Place, mounts: Mounts) -> None:
    error = place.bench("--path", str(place.tier), "--size", "1TiB", "--seconds", "1", code=1)
    assert f"no space on '{place.tier}'" in error
    assert "are needed. Free some, or give a smaller --size" in error
    full = mounts.tmpfs("32M")
    error = place.bench("--path", str(full), "--seconds", "1", code=1)
    assert f"no space on '{full}': 32MiB are free" in error
    assert list(full.iterdir()) == []


def test_a_drive_that_fills_meanwhile_is_said_and_left_clean(place: Place, mounts: Mounts) -> None:
    small = mounts.tmpfs("300M")
    with place.start("--path", str(small), "--size", "16MiB", "--seconds", "30") as process:
        until("it measures", lambda: list(small.glob(".cairn-bench-*/data-*")), seconds=SECONDS)
        with (small / "filler").open("wb") as filler:
            until("the drive is full", lambda: _fill(filler.fileno()))
        _, error = process.communicate(timeout=SECONDS)
    assert process.returncode in (1, 4), error
    assert "no space" in error.lower()
    assert [left.name for left in small.iterdir()] == ["filler"]
    place.is_clean()


def _fill(file: int) -> bool:
    try:
        return os.write(file, bytes(1 << 20)) == 0
    except OSError:
        return True


def test_a_folder_that_may_not_be_written_is_refused(place: Place) -> None:
    place.tier.chmod(0o555)
    error = place.bench("--path", str(place.tier), *SMALL, code=1, prefix=as_nobody)
    assert f"nothing may be written to '{place.tier}'" in error
    assert "the user that cairnd runs as" in error


def test_says_what_is_wrong_with_what_was_asked(place: Place, folder: Path) -> None:
    missing = str(folder / "missing")
    assert "make it first, or mount its filesystem" in place.bench("--path", missing, code=1)
    assert "no daemon answers" in place.bench("--socket", missing, code=3)
    assert "--seconds must be" in place.bench("--path", missing, "--seconds", "0", code=2)
    place.bench("--path", missing, "--size", "1KiB", code=2)
