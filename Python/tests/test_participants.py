"""Saves by some ranks only, steps that are promoted, and runs that begin as a branch of another."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import pytest
from in_process import Job, reason, written
from real_daemon import Cluster, Daemon, until

import cairn
from cairn import options

pytestmark = pytest.mark.daemon


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


def state(rank: int) -> dict[str, Any]:
    return {"w": np.arange(8.0), "v": np.full(5, 7.0), "own": np.full(3, float(rank)), "epoch": 4, "rank": rank}


def blank() -> dict[str, Any]:
    return {"w": np.zeros(8), "v": np.zeros(5), "own": np.zeros(3), "epoch": None, "rank": None}


SHARED: dict[str, Any] = {"replicated": ["w", "v"], "shared": ["epoch"]}


@pytest.mark.parametrize(
    ("ranks", "why"),
    [([1], "rank 0"), ([0], "rank 1"), ([0, 1, 3], "world of 3"), ([0, 1, 1], "different"), ([0, True], "different")],
)
def test_participants_are_checked_before_anything_happens(ranks: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        options.participants_of(ranks, 1, 3)


def test_all_ranks_are_the_same_as_none_said() -> None:
    assert options.participants_of([2, 0, 1], 1, 3) is None
    assert options.participants_of(iter([2, 0]), 2, 3) == [0, 2]


def test_some_ranks_make_a_step_and_all_restore_it(shared: Daemon, run: str) -> None:
    with Job(shared, 3, run=run, **SHARED) as job:
        with pytest.raises(ValueError, match="rank 2"):
            job.ranks[2].save(1, state(2), participants=[0, 1])
        job.commit(1, state, [0, 1], participants=[1, 0])
        assert job.all(lambda checkpointer: checkpointer.all_steps()) == [[1]] * 3
        assert len(written(shared.step_folders(run)[0])) == 2
        into = [blank() for _ in range(3)]
        steps = job.all(lambda checkpointer: checkpointer.restore(into[checkpointer.rank], objects="skip"))
    assert steps == [1] * 3
    for rank, each in enumerate(into):
        assert (each["w"] == np.arange(8.0)).all()
        assert (each["v"] == 7).all()
        assert each["epoch"] == 4
        assert each["rank"] == (rank if rank < 2 else None)
        assert (each["own"] == (rank if rank < 2 else 0)).all()


def test_a_rank_that_took_no_part_is_told_so(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run, **SHARED) as job:
        job.commit(1, state, [0], participants=[0])
        with pytest.raises(cairn.WorldSizeChanged, match="ranks \\[0\\] only"):
            job.ranks[1].restore(blank(), timeout=3)


def test_a_save_by_some_ranks_waits_for_no_others(shared: Daemon, run: str) -> None:
    """And the next one, by all, finds them in step."""
    with Job(shared, 3, run=run) as job:
        job.commit(1, state)
        job.commit(2, state, [0, 2], participants=[0, 2])
        job.commit(3, state)
        job.commit(4, state, [0], participants=[0])
        assert job.ranks[1].all_steps() == [1, 2, 3, 4]


def test_ranks_that_name_others_commit_nothing_and_then_the_same_step(shared: Daemon, run: str) -> None:
    def participants(rank: int) -> list[int] | None:
        return [0, 1] if rank == 0 else None

    with Job(shared, 3, run=run) as job:
        saves = job.all(lambda rank: rank.save(1, state(rank.rank), participants=participants(rank.rank)))
        assert all("participants" in reason(save) for save in saves)
        job.commit(1, state)
        assert job.ranks[0].all_steps() == [1]


def test_a_step_that_ended_in_memory_is_promoted(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with Job(daemon, 2, every={"memory": 1, "global": 100}) as job:
        for save in job.save(1, state):
            assert save.wait(timeout=20).level == "staged"
        with pytest.raises(ValueError, match="promote"):
            job.ranks[0].promote(1, "memory")
        with pytest.raises(cairn.NoSuchStep):
            job.ranks[0].promote(7)
        job.all(lambda checkpointer: checkpointer.promote(1, "committed"))
        until(lambda: job.ranks[1].all_steps() == [1])
        into = [blank() for _ in range(2)]
        assert job.all(lambda checkpointer: checkpointer.restore(into[checkpointer.rank])) == [1, 1]
    assert [each["rank"] for each in into] == [0, 1]


def test_a_run_begins_with_another_runs_step(shared: Daemon, run: str) -> None:
    branch = f"{run}-b"
    with Job(shared, 2, run=run) as job:
        job.commit(1, state)
        job.commit(2, lambda rank: state(rank) | {"epoch": 5})
    for launch in (1, 2):  # the second one finds the branch with a step of its own
        with Job(shared, 2, run=branch, branch_from=f"{run}@1") as job:
            into = [blank() for _ in range(2)]
            steps = job.all(lambda checkpointer, into=into: checkpointer.restore(into[checkpointer.rank], 1))  # type: ignore[misc]
            assert steps == [1, 1]
            assert [(each["epoch"], each["rank"]) for each in into] == [(4, 0), (4, 1)]
            job.commit(launch + 1, state)
    with Job(shared, 2, run=run) as job:
        assert job.ranks[0].all_steps() == [1, 2]
    with shared.open(f"{run}-c", branch_from=run) as newest:
        assert newest.restore({}, objects="skip") == 2
    with shared.open(f"{run}-d", branch_from=f"{run}@1.1-1") as exact:
        exact.save(5, {"v": 1}).wait(timeout=20)
        assert exact.all_steps() == [1, 5]


def test_what_is_no_branch_is_told(shared: Daemon, run: str) -> None:
    for text in ("", "run@", "run@x", "run@1.2", "a/b@1", "run@1@2"):
        with pytest.raises(ValueError, match=r"branch_from|must be"):
            shared.open(run, branch_from=text)
    with shared.open(run, branch_from=f"{run}-none") as nothing, pytest.raises(cairn.NoSuchRun):
        nothing.restore({})
    with shared.open(run) as first:
        first.save(1, {"v": 1}).wait(timeout=20)
    with shared.open(run, branch_from=f"{run}@1") as itself, pytest.raises(cairn.NotPermitted):
        itself.restore({})
    with shared.open(f"{run}-b", branch_from=f"{run}@9") as missing:
        with pytest.raises(cairn.NoSuchStep):
            missing.restore({})
        assert missing.save(1, {"v": 1}).level == "failed"  # not a run of its own instead
        assert missing.all_steps() == []
