"""A global tier that stores files as zstd frames: the stock tool gives back the plain file, restores in any sharding read it,
damage and deaths never give wrong bytes, and a tier that does not compress has nothing of all that."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import wire_ranks
from jobs import MIB
from machine import anonymous_bytes, cli, committed, steps, tier, until
from real_daemon import Cluster, Daemon
from wire_ranks import restore, save_steps

COLUMNS = 29 << 10
"""Of `weight`: each rank's part takes two chunks."""
LAST = 6


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wire's ranks with files of two chunks, which shrink by a half or so."""

    @functools.lru_cache(maxsize=8)
    def half_random(run: str, step: int, name: str, count: int) -> bytes:
        found = np.zeros(count, dtype=np.uint8)
        chance = np.random.default_rng(zlib.crc32(f"{run} {step} {name}".encode()))
        found[::2] = chance.integers(0, 256, (count + 1) // 2, dtype=np.uint8)
        return found.tobytes()

    monkeypatch.setattr(wire_ranks, "COLUMNS", COLUMNS)
    monkeypatch.setattr(wire_ranks, "LEASE", 32 << 20)
    monkeypatch.setattr(wire_ranks, "content", half_random)


def unpacked(path: Path) -> bytes:
    """What the stock tool makes of a file."""
    if shutil.which("zstd") is None:
        pytest.skip("no zstd tool: apt-get install zstd")
    done = subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, timeout=60)
    assert done.returncode == 0, f"zstd -d {path}: {done.stderr.decode()}"
    return done.stdout


def packed_files(daemon: Daemon, run: str = "run") -> dict[tuple[int, int], Path]:
    """The files of frames by step and rank."""
    found = {}
    for folder in daemon.step_folders(run):
        for path in folder.glob("rank-*.safetensors.zst"):
            found[int(folder.name[5:].partition(".")[0]), int(path.name[5:10])] = path
    return found


def check_packed(daemon: Daemon, run: str, expected: list[int], ranks: int) -> None:
    """Each file of these steps is stored as frames only, and unpacks to the local one."""
    files = packed_files(daemon, run)
    assert sorted(files) == [(step, rank) for step in expected for rank in range(ranks)]
    for (step, rank), path in files.items():
        assert not path.with_suffix("").exists()
        (local,) = (daemon.local / str(os.getuid()) / run).glob(f"*-{step}-*.rank-{rank:05}.safetensors")
        plain = local.read_bytes()
        assert unpacked(path) == plain, path
        assert path.stat().st_size < len(plain) * 3 // 4


def without_local(daemon: Daemon, run: str = "run") -> None:
    shutil.rmtree(daemon.local / str(os.getuid()) / run)


def threads(pid: int) -> set[str]:
    return {path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")}


@pytest.mark.usefixtures("large")
def test_the_stock_tool_and_every_sharding_read_it(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, compression="zstd")
    save_steps(daemon, "run", [1, 2])
    check_packed(daemon, "run", [1, 2], 2)
    assert re.fullmatch(r"zstd: the last file takes \d\d %", tier(daemon, "global")["compression"])
    assert tier(daemon, "local")["compression"] == "none"
    metrics = cli(daemon, "metrics")
    assert 'cairn_global_files_total{stored="zstd"} 4' in metrics
    assert 'cairn_global_files_total{stored="plain"} 0' in metrics
    assert "rank-00001.safetensors.zst" in cli(daemon, "show", "run", "2")
    # Its buffers are given back when nothing is compressed any more.
    until("the buffers' memory", lambda: anonymous_bytes([daemon.workers()["global"]]) < 24 * MIB)

    daemon.stop()
    without_local(daemon)
    daemon.start()
    for world in (2, 1):
        found = restore(daemon, "run", world)
        assert (found.step, found.tiers, found.refusals) == (2, {"global"}, [])
    cli(daemon, "verify", "run", "2")
    # A branch has them too, without the run that they came from.
    cli(daemon, "branch", "run@2", "copy")
    assert len(packed_files(daemon, "copy")) == 2
    cli(daemon, "verify", "copy", "2")


@pytest.mark.usefixtures("large")
def test_without_compression_nothing_of_it_is_there(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    save_steps(daemon, "run", [1])
    assert not packed_files(daemon)
    assert tier(daemon, "global")["compression"] == "none"
    assert "cairn_global_files_total" not in cli(daemon, "metrics")
    daemon.stop()
    without_local(daemon)
    daemon.start()
    assert restore(daemon, "run", 1).tiers == {"global"}
    assert not [name for name in threads(daemon.workers()["global"]) if "zstd" in name or "frame" in name]


@pytest.mark.usefixtures("large")
def test_a_flipped_byte_is_found_and_an_older_step_restored(cluster: Cluster) -> None:
    # In the first frame's head, its middle, the second frame, the table's rows.
    places = [4, 2_000_000, -100_000, -20]
    daemon = cluster.daemon(tiers=2, compression="zstd")
    runs = [f"run{number}" for number in range(len(places))]
    for run in runs:
        save_steps(daemon, run, [1, 2])
    daemon.stop()
    damaged = []
    for run, place in zip(runs, places, strict=True):
        path = packed_files(daemon, run)[2, 1]
        content = bytearray(path.read_bytes())
        content[place] ^= 4
        path.write_bytes(content)
        damaged.append(path)
        without_local(daemon, run)
    daemon.start()
    for number, (run, path) in enumerate(zip(runs, damaged, strict=True)):
        assert str(path) in cli(daemon, "verify", run, "2", code=1), places[number]
        found = restore(daemon, run, 2 - number % 2)
        assert (found.step, found.tiers) == (1, {"global"}), (places[number], found)
        assert any("Corrupt" in refusal for refusal in found.refusals), found
    # Where no older step is whole, there is an error and nothing else.
    for path in packed_files(daemon, runs[0]).values():
        path.write_bytes(path.read_bytes()[:-1])
    daemon.stop()
    daemon.start()
    found = restore(daemon, runs[0], 2)
    assert found.step is None
    assert found.error


def state(step: int, mebibytes: int) -> dict[str, np.ndarray]:
    """Tensors of 8 MiB, of which every other byte is random, in the same way for a given step."""
    chance = np.random.default_rng(step)
    found = {}
    for index in range(mebibytes // 8):
        tensor = np.zeros(8 * MIB, dtype=np.uint8)
        tensor[::2] = chance.integers(0, 256, 4 * MIB, dtype=np.uint8)
        found[f"t{index}"] = tensor
    return found


def check(daemon: Daemon, step: int, mebibytes: int) -> None:
    into = {name: np.zeros_like(tensor) for name, tensor in state(step, mebibytes).items()}
    with daemon.open() as checkpointer:
        assert checkpointer.restore(into) == step
    assert all(np.array_equal(into[name], tensor) for name, tensor in state(step, mebibytes).items())


def kill_in_flush(daemon: Daemon, after: float) -> None:
    """Kill the worker of the global tier while it writes a file."""
    until("a file being written", lambda: list(daemon.run_folder().glob(".saving-*/.rank-*.part")))
    time.sleep(after)
    os.kill(daemon.workers()["global"], signal.SIGKILL)


def test_a_worker_killed_in_its_flush_leaves_nothing_partial(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, compression="zstd", retention="{local: {keep: 10}, global: {keep: 10}}")
    ended = []
    with daemon.open() as checkpointer:
        for step, after in enumerate([0.0, 0.02, 0.05, 0.1], start=1):
            save = checkpointer.save(step, state(step, 48))
            kill_in_flush(daemon, after)
            until("the save's end", lambda save=save: save.done, 40)
            ended.append(step in steps(daemon))
        checkpointer.save(LAST, state(LAST, 48)).wait("committed", timeout=40)
    expected = [step for step, whole in enumerate(ended, start=1) if whole] + [LAST]
    assert len(expected) > 1, "a worker's death costs no save whose local copy stands"
    committed(daemon, expected)
    check_packed(daemon, "run", expected, 1)
    for folder in daemon.step_folders():
        assert sorted(path.name for path in folder.glob(".*")) == []
        cli(daemon, "verify", "run", folder.name[5:].partition(".")[0])


def test_a_daemon_killed_in_its_flush_finishes_the_save(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, compression="zstd")
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 48)).wait("local", timeout=40)
        until("a file being written", lambda: list(daemon.run_folder().glob(".saving-*")) or steps(daemon))
        daemon.stop(signal.SIGKILL)
        daemon.start()
    check(daemon, 1, 48)
    committed(daemon, [1])
    check_packed(daemon, "run", [1], 1)


@pytest.mark.parametrize("threads", [2, 16])
def test_a_pool_of_a_quarter_of_the_state(cluster: Cluster, threads: int) -> None:
    """The global tier alone: a chunk leaves the pool only when that tier has it. As many threads as chunks are no hindrance."""
    daemon = cluster.daemon(local=False, pool="128MiB", compression="zstd", compressionThreads=threads)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 512)).wait("committed", timeout=60)
    (path,) = packed_files(daemon).values()
    assert path.stat().st_size < 400 * MIB
    check(daemon, 1, 512)


def form(daemon: Daemon, step: int) -> str:
    return "zstd" if (step, 0) in packed_files(daemon) else "plain"


def rates(text: str) -> tuple[float, float]:
    """What the threads compress and what the tier writes, as status tells it."""
    found = re.search(r"compresses ([\d.]+) GB/s, the tier writes ([\d.]+) GB/s", text)
    assert found, text
    return float(found[1]), float(found[2])


def test_auto_decides_by_what_it_measures(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, compression="auto", retention="{local: {keep: 10}, global: {keep: 10}}")
    chance = np.random.default_rng(1)
    contents = {"random": chance.integers(0, 256, 40 * MIB, dtype=np.uint8), "zeros": np.zeros(40 * MIB, dtype=np.uint8)}
    step = 0
    for name, tensor in contents.items():
        for number in range(3):
            before = tier(daemon, "global")["compression"]
            step += 1
            with daemon.open() as checkpointer:
                checkpointer.save(step, {"t": tensor}).wait("committed", timeout=30)
            if step == 1:
                assert before == "auto: no file written yet"
                assert form(daemon, step) == "plain", "nothing is measured before the first file"
            elif name == "random":
                assert form(daemon, step) == "plain"
            elif number > 0:
                # The file before was zeros too, so only the speeds decide; near the point where both are equal either is right.
                compresses, writes = rates(before)
                if compresses > 1.5 * writes:
                    assert form(daemon, step) == "zstd", before
                elif writes > 1.5 * compresses:
                    assert form(daemon, step) == "plain", before
            cli(daemon, "verify", "run", str(step))
            into = {"t": np.ones_like(tensor)}
            with daemon.open() as checkpointer:
                assert checkpointer.restore(into) == step
            assert np.array_equal(into["t"], tensor)
    assert re.search(r"\d+ of 6 files compressed", tier(daemon, "global")["compression"])
