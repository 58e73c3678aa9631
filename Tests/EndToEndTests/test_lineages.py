"""A run's lines as the CLI shows them, saves that lack ranks, and the calls that change where a save or a run goes."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from jobs import check, state
from machine import cli, committed, status, steps, until
from real_daemon import Cluster, Daemon
from test_nodes import open_rank


def launch(daemon: Daemon, back_to: int | None, saves: list[int]) -> None:
    """One launch of the job: restore, if anything, then save."""
    with daemon.open() as checkpointer:
        if back_to is not None:
            assert checkpointer.restore(state(0, 2), step=back_to) == back_to
        for step in saves:
            checkpointer.save(step, state(step, 2)).wait("committed", timeout=20)


def shape(daemon: Daemon, run: str = "run") -> list[tuple[int, int, str]]:
    """Of each row of `cairn ls`: how far it is indented, its step and its note."""
    lines = cli(daemon, "ls", run).splitlines()
    rows = [(len(line) - len(line.lstrip()), int(line.split()[0]), line.split("G")[-1].strip()) for line in lines[1:]]
    margin = min(indent for indent, _, _ in rows)
    return [((indent - margin) // 2, step, note) for indent, step, note in rows]


def test_a_job_that_goes_back_leaves_a_side_line(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, retention="{local: {keep: 9}, global: {keep: 9}}")
    launch(daemon, None, [1000, 2000, 3000])
    launch(daemon, 1000, [2000, 4000])
    launch(daemon, 2000, [5000])
    assert shape(daemon) == [
        (0, 5000, ""),
        (0, 2000, ""),
        (1, 4000, "superseded"),
        (0, 1000, ""),
        (1, 3000, "superseded"),
        (1, 2000, "superseded"),
    ]
    told = json.loads(cli(daemon, "ls", "run", "--json"))["runs"][0]["steps"]
    sequences = {(step["sequence"] >> 32, step["step"]): step["sequence"] for step in told}
    assert {step["sequence"]: step.get("parent") for step in told} == {
        sequences[1, 1000]: None,
        sequences[1, 2000]: None,
        sequences[1, 3000]: None,
        sequences[2, 2000]: sequences[1, 1000],
        sequences[2, 4000]: sequences[1, 1000],
        sequences[3, 5000]: sequences[2, 2000],
    }


def test_status_names_the_ranks_that_a_save_lacks(cluster: Cluster) -> None:
    nodes = [cluster.daemon(tiers=2), cluster.daemon(tiers=2)]
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    first = ranks[0].save(7, state(7, 2))
    first.wait("global", timeout=20)

    def missing() -> list[int]:
        return [rank for save in status(nodes[0])["saves"] for rank in save["missing"]]

    until("only rank 1 is missing", lambda: missing() == [1])
    assert "missing rank 1" in cli(nodes[0], "status")
    second = ranks[1].save(7, state(7, 2))
    for save in (first, second):
        save.wait("committed", timeout=20)
    until("nothing is missing", lambda: not status(nodes[0])["saves"])
    for checkpointer in ranks:
        checkpointer.close()


def test_status_marks_what_an_earlier_launch_left(cluster: Cluster) -> None:
    nodes = [cluster.daemon(tiers=2), cluster.daemon(tiers=2)]
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    ranks[0].save(7, state(7, 2)).wait("global", timeout=20)
    for checkpointer in ranks:
        checkpointer.close()
    assert [save["leftover"] for save in status(nodes[0])["saves"]] == [False]
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[0], 0, 2, attempt, here=1)]
    # Rank 1's node has not said yet what it holds: its part may be there.
    until("the save is marked", lambda: [save["leftover"] for save in status(nodes[0])["saves"]] == [True])
    assert "left by an earlier launch" in cli(nodes[0], "status")
    ranks.append(open_rank(nodes[1], 1, 2, attempt, here=1))
    until("rank 1's node has no part of it", lambda: not status(nodes[0])["saves"], seconds=10)
    for checkpointer in ranks:
        checkpointer.close()


def opened(daemon: Daemon, rank: int, world: int) -> Any:
    raw = daemon.raw()
    reply = raw.call("Open", run="run", rank=rank, worldSize=world, localWorldSize=world, attempt="one")
    assert "error" not in reply, reply
    return raw


@pytest.mark.parametrize("participants", [[], [1], [0], [1, 0, 2], [0, 1, 1], [0, 1, 4], [-1, 0, 1]])
def test_participants_that_cannot_be_are_refused(cluster: Cluster, participants: list[int]) -> None:
    """Rank 1 of 4 calls: ascending, rank 0 and the caller among them, within the world."""
    daemon = cluster.daemon()
    zero, one = opened(daemon, 0, 4), opened(daemon, 1, 4)
    layout = one.call("Register", shards=[])["parameters"]["layout"]
    assert one.error("Save", step=1, **{"try": 1}, layout=layout, participants=participants) == "InvalidParameter"
    zero.close()
    one.close()


def test_a_save_of_some_ranks_commits_without_the_others(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    raws = [opened(daemon, rank, 4) for rank in range(4)]
    for rank in (0, 2):
        layout = raws[rank].call("Register", shards=[])["parameters"]["layout"]
        assert raws[rank].error("Save", step=5, **{"try": 1}, layout=layout, participants=[0, 2]) == ""
    committed(daemon, [5])
    for raw in raws:
        raw.close()


def test_promote_says_what_cannot_be(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    raw = opened(daemon, 0, 1)
    for level in ("accepted", "staged", "failed"):
        assert raw.error("Promote", step=1, level=level) == "InvalidParameter"
    assert raw.error("Promote", step=1, level="committed") == "NoSuchStep"
    raw.close()


@pytest.mark.parametrize("level", ["staged", "local"])
def test_a_promoted_save_is_committed(cluster: Cluster, level: str) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open(attempt="one") as checkpointer:
        checkpointer.save(3, state(3, 2), level=level).wait(level, timeout=20)
        assert steps(daemon) == []
        checkpointer.promote(3)
        committed(daemon, [3])
    check(daemon, 3, 2)


def test_a_branch_goes_on_from_a_step_of_another_run(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    launch(daemon, None, [100, 200, 300])
    assert "begins at step 200 of run" in cli(daemon, "branch", "run@200", "colder")
    told = json.loads(cli(daemon, "branch", "run@200", "colder", "--json"))
    assert told["step"] == 200, "what stands already is answered"
    assert steps(daemon, "colder") == [200]
    assert "every block is good" in cli(daemon, "verify", "colder", "--tier", "global")
    assert "from run@200" in cli(daemon, "ls", "colder")
    into = state(0, 2)
    with daemon.open("colder") as checkpointer:
        assert checkpointer.restore(into) == 200
        checkpointer.save(201, state(201, 2)).wait("committed", timeout=20)
    assert into["t0"][0] == 200_000
    assert shape(daemon, "colder") == [(0, 201, ""), (0, 200, "from run@200")]
    # Neither a run that went on, nor one that never was, nor itself.
    cli(daemon, "branch", "colder@201", "run", code=4)
    cli(daemon, "branch", "run@999", "other", code=4)
    cli(daemon, "branch", "nobody", "other", code=4)
    cli(daemon, "branch", "run", "run", code=2)
    cli(daemon, "branch", "run@x", "other", code=2)
    raw = opened(daemon, 0, 1)
    assert raw.error("Branch", **{"from": "nobody"}) == "NoSuchRun"
    assert raw.error("Branch", **{"from": "run"}) == "NotPermitted"
    raw.close()
