"""How far each step goes, and what the ranks of a larger world are told when one of them fails: with two tiers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from in_process import Gone, Job, reason
from real_daemon import Cluster, Daemon, needs_daemon, short_folder, until

import cairn

pytestmark = pytest.mark.daemon


@pytest.fixture(scope="module")
def two_tiers() -> Iterator[Daemon]:
    needs_daemon()
    cluster = Cluster(short_folder())
    try:
        yield cluster.daemon(tiers=2, retention="{local: {keep: 1000}, global: {keep: 1000}}")
    finally:
        cluster.stop()


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


def state(rank: int) -> dict[str, Any]:
    return {"a": np.full(1000, float(rank)), "rank": rank}


EVERY = {"memory": 1, "local": 4, "global": 6}


def test_each_step_goes_as_far_as_its_furthest_period(two_tiers: Daemon, run: str) -> None:
    with Job(two_tiers, 2, run=run, every=EVERY) as job:
        ends: dict[int, str] = {}
        for step in range(1, 13):
            saves = job.save(step, state)
            (ends[step],) = {save.wait(timeout=20).level for save in saves}
            assert all(save.done for save in saves)
        assert {step for step, level in ends.items() if level == "local"} == {4, 8}
        assert {step for step, level in ends.items() if level == "committed"} == {6, 12}
        assert {step for step, level in ends.items() if level == "staged"} == {1, 2, 3, 5, 7, 9, 10, 11}
        assert job.all(lambda checkpointer: checkpointer.all_steps()) == [[6, 12]] * 2
        assert len(two_tiers.step_folders(run)) == 2


def test_a_save_that_is_told_its_level_goes_there(two_tiers: Daemon, run: str) -> None:
    with Job(two_tiers, 2, run=run, every=EVERY) as job:
        job.commit(1, state, level="committed")
        assert {save.wait(timeout=20).level for save in job.save(6, state, level="local")} == {"local"}
        assert job.ranks[0].all_steps() == [1]
        assert [job.ranks[0].should_save(step) for step in (1, 2)] == [True, True]


def test_due_steps_are_those_of_any_period(two_tiers: Daemon, run: str) -> None:
    with two_tiers.open(run, every={"local": 4, "global": 6}) as checkpointer:
        assert [step for step in range(1, 13) if checkpointer.should_save(step)] == [4, 6, 8, 12]
        assert checkpointer.save(5, state(0)).upto == "local"  # asked for out of turn: the nearest that was named


def fails_on(rank: int) -> Any:
    """A state that cannot be staged on one rank."""
    return lambda each: {"a": Gone().array} if each == rank else state(each)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_save_that_fails_on_one_rank_fails_on_all(two_tiers: Daemon, run: str, failing: int) -> None:
    with Job(two_tiers, 2, run=run, on_failure="raise") as job:
        saves = job.save(1, fails_on(failing), lazy=True)
        assert all(f"rank {failing}" in reason(save) or index == failing for index, save in enumerate(saves))
        for checkpointer in job.ranks:
            with pytest.raises(cairn.CheckpointFailed, match="step 1"):
                checkpointer.save(2, state(checkpointer.rank))
        job.commit(3, state)  # told once, then training goes on
        assert job.ranks[0].all_steps() == [3]
        assert [checkpointer.failures for checkpointer in job.ranks] == [1, 1]


def test_by_default_nothing_is_raised(two_tiers: Daemon, run: str) -> None:
    with Job(two_tiers, 2, run=run) as job:
        for save in job.save(1, fails_on(1), lazy=True):
            reason(save)
        job.commit(2, state)
        for checkpointer in job.ranks:
            with pytest.raises(cairn.CheckpointFailed, match="step 1"):
                checkpointer.check_for_errors()


def test_a_rank_that_saves_no_more_is_noticed_in_time(two_tiers: Daemon, run: str) -> None:
    with Job(two_tiers, 2, run=run, max_without_commit=1.5) as job:
        job.commit(1, state)
        begin = time.monotonic()
        with pytest.raises(cairn.NoCommit):  # noqa: PT012
            for step in range(2, 500):
                job.ranks[0].save(step, state(0))
                time.sleep(0.05)
        assert 1 < time.monotonic() - begin < 10
    with Job(two_tiers, 2, run=run) as job:  # the next launch, with which what the last one left is void
        job.commit(3, state)
        assert job.ranks[0].all_steps() == [1, 3]


def test_without_a_daemon_each_rank_is_told_where_asked_for(cluster: Cluster) -> None:
    daemon = cluster.daemon()

    def each(rank: int) -> dict[str, Any]:
        return {"on_unavailable": "raise" if rank == 1 else "warn"}

    with Job(daemon, 2, each=each) as job:
        job.commit(1, state)
        daemon.stop()
        until(lambda: all(checkpointer._link.session is None for checkpointer in job.ranks))
        assert job.ranks[0].save(2, state(0)).level == "failed"
        with pytest.raises(cairn.Unavailable):
            job.ranks[1].save(2, state(1))
        daemon.start()
        for checkpointer in job.ranks:
            checkpointer._link.wait_for_session(30)
        job.commit(3, state)
