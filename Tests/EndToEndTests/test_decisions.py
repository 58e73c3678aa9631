"""The one file that decides a save is damaged while the save is in flight. It is never written again, so nothing may wait for it:
the save ends by the copy in its step, or in an error that says which file it is; whoever saves again is committed."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest
from damage import SHAPES, Damage, flip
from machine import cli, status, until
from real_daemon import Cluster, Daemon
from wire_ranks import WireRank, open_all, restore

SECONDS = 40.0
"""Ten answers, a second apart, and the machine's other work."""
DAMAGES = [flip(100), *(shape for shape in SHAPES if shape.name in ("cut to nothing", "zeros", "another step's", "a FIFO"))]


def ends(rank: WireRank, save: str) -> dict[str, object]:
    return rank.call("Wait", save=save, level="committed", timeoutMs=int(SECONDS * 1000))


def save_all(ranks: list[WireRank], step: int) -> list[str]:
    for rank in ranks:
        rank.save(step)
    return [str(rank.receive()["save"]) for rank in ranks]


def commit_all(ranks: list[WireRank], step: int) -> None:
    for rank, save in zip(ranks, save_all(ranks, step), strict=True):
        assert ends(rank, save)["level"] == "committed"


def nothing_waits(daemon: Daemon) -> None:
    found = status(daemon)
    assert not [worker for worker in found["workers"] if worker["restarts"] or worker["state"] != "up"], found["workers"]
    assert not found["saves"], found["saves"]


def test_a_damaged_decision_that_nobody_has_read_fails_the_save_and_no_other(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    ranks = open_all(daemon, "run", 2)
    commit_all(ranks, 1)
    ranks[0].save(2)
    first = str(ranks[0].receive()["save"])
    assert ranks[0].call("Wait", save=first, level="global", timeoutMs=30_000)["level"] == "global"
    # As a void that another node published, and its disk damaged: rank 1's part is not there, so nothing was decided yet.
    decision = daemon.run_folder() / f"attempts/000001/{first}.json"
    with daemon.paused("global"):
        ranks[1].save(2)
        second = str(ranks[1].receive()["save"])
        whole = (daemon.run_folder() / "attempts/000001/1-1-1.json").read_bytes()
        decision.write_bytes(whole[: len(whole) // 2])
    begin = time.monotonic()
    for rank, save in zip(ranks, (first, second), strict=True):
        ended = ends(rank, save)
        assert ended["level"] == "failed", ended
        assert str(decision) in str(ended["reason"])
        assert "save again" in str(ended["reason"])
    assert time.monotonic() - begin < SECONDS
    commit_all(ranks, 3)
    nothing_waits(daemon)
    for rank in ranks:
        rank.close()
    # What lies on both tiers of the save that failed is asked for again by a start, and given up again.
    daemon.stop()
    daemon.start()
    for world in (2, 1):
        found = restore(daemon, "run", world)
        assert found.step == 3, found
    until("all ends", lambda: not status(daemon)["saves"], seconds=SECONDS)
    cli(daemon, "verify", "run")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
@pytest.mark.parametrize("which", ["decision", "decision and copy"])
def test_a_decision_that_is_damaged_before_another_node_reads_it(cluster: Cluster, which: str, damage: Damage) -> None:
    """Node 1 sees nothing of the global tier while node 0 commits; when it looks, the file is damaged."""
    nodes = [cluster.daemon(tiers=2), cluster.daemon(tiers=2)]
    attempt = secrets.token_hex(8)
    ranks = [WireRank(node, "run", rank, 2, attempt, here=1) for rank, node in enumerate(nodes)]
    for rank in ranks:
        rank.receive()
    commit_all(ranks, 1)
    ranks[1].save(2)
    second = str(ranks[1].receive()["save"])
    assert ranks[1].call("Wait", save=second, level="global", timeoutMs=30_000)["level"] == "global"
    paused = nodes[1].paused("global")
    ranks[0].save(2)
    first = str(ranks[0].receive()["save"])
    assert ends(ranks[0], first)["level"] == "committed"
    (step,) = nodes[0].run_folder().glob("step-2.*")
    decision = nodes[0].run_folder() / f"attempts/000001/{first}.json"
    paths: list[Path] = [decision] if which == "decision" else [decision, step / "checkpoint.json"]
    for path in paths:
        damage.do(path)
    paused.resume()
    begin = time.monotonic()
    ended = ends(ranks[1], second)
    if which == "decision":
        assert ended["level"] == "committed", ended
        said = cli(nodes[1], "verify", "run", "2", code=1)
        assert str(decision) in said
    else:
        assert ended["level"] == "failed", ended
        assert str(decision) in str(ended["reason"])
    assert time.monotonic() - begin < SECONDS
    commit_all(ranks, 3)
    for rank in ranks:
        rank.close()
    for node in nodes:
        nothing_waits(node)
    found = restore(nodes[1], "run")
    assert found.step == 3, found
