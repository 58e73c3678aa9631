"""One attempt's history that is not a straight line: the same step again, older steps restored, restores that were interrupted."""

from __future__ import annotations

import concurrent.futures
import secrets
import time
from typing import Any

import numpy as np
import pytest
from in_process import Gone, Job, reason, together
from real_daemon import Cluster, Daemon, until

import cairn
from cairn import attempt as attempts

pytestmark = pytest.mark.daemon


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


def state(rank: int, step: int, line: str = "first") -> dict[str, Any]:
    return {"a": np.full(500, float(100 * step + rank)), "line": line, "rank": rank}


def restored(job: Job, step: int | None = None) -> list[tuple[int | None, str]]:
    """What each rank gets back: the step, and the line that it is of."""
    into = [{"a": np.zeros(500), "line": "", "rank": -1} for _ in job.ranks]
    steps = job.all(lambda checkpointer: checkpointer.restore(into[checkpointer.rank], step))
    for rank, (found, each) in enumerate(zip(steps, into, strict=True)):
        assert each["rank"] == rank
        assert found is not None
        assert (each["a"] == 100 * found + rank).all()
    return [(found, str(each["line"])) for found, each in zip(steps, into, strict=True)]


def test_the_same_step_again_after_it_failed(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        for _ in range(2):
            saves = job.save(1, lambda rank: {"a": Gone().array} if rank else state(0, 1), lazy=True)
            assert "rank 1" in reason(saves[0])
            reason(saves[1])
        job.commit(1, lambda rank: state(rank, 1))
        assert job.ranks[0].all_steps() == [1]
        assert restored(job) == [(1, "first")] * 2


def test_a_save_that_a_rank_missed_does_not_mix_with_one_after_going_back(shared: Daemon, run: str) -> None:
    """Rank 1's first call for step 2 is rank 0's second: they were made in different lives of the state."""
    with Job(shared, 2, run=run) as job:
        job.commit(1, lambda rank: state(rank, 1))
        assert restored(job) == [(1, "first")] * 2
        alone = job.ranks[0].save(2, state(0, 2))
        assert restored(job, 1) == [(1, "first")] * 2
        job.commit(2, lambda rank: state(rank, 2, "second"))
        assert restored(job) == [(2, "second")] * 2
        job.commit(3, lambda rank: state(rank, 3))
        assert any(name in reason(alone) for name in ("rank 1", "ranks [1]"))


def test_a_committed_step_saved_again_is_the_newer_one(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        for line in ("first", "second"):
            job.commit(1, lambda rank, line=line: state(rank, 1, line))  # type: ignore[misc]
        assert restored(job) == [(1, "second")] * 2


@pytest.mark.parametrize("launches", [1, 2])
def test_going_back_makes_a_new_line(shared: Daemon, run: str, launches: int) -> None:
    attempt = secrets.token_hex(8)
    with Job(shared, 2, run=run, attempt=attempt) as job:
        for step in (1, 2, 3):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]
    with Job(shared, 2, run=run, attempt=attempt if launches == 1 else None) as job:
        assert restored(job, 1) == [(1, "first")] * 2
        job.commit(2, lambda rank: state(rank, 2, "second"))
        assert [checkpointer.latest_step() for checkpointer in job.ranks] == [2, 2]
        assert restored(job) == [(2, "second")] * 2
        assert {entry["step"] for entry in job.ranks[0].steps() if entry["superseded"]} == {2, 3}
        assert restored(job, 3) == [(3, "first")] * 2  # superseded, but there where asked for
    with Job(shared, 2, run=run) as job:
        assert restored(job) == [(2, "second")] * 2


def test_ranks_that_start_again_as_the_same_attempt_see_what_it_saved(
    shared: Daemon, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a CAIRN_ATTEMPT that is set once for all restarts: the first restore's answer, nothing, is not theirs."""
    token = secrets.token_hex(8)
    with Job(shared, 2, run=run, attempt=token) as job:
        assert job.all(lambda checkpointer: checkpointer.restore({})) == [None, None]
        for step in (1, 2):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]
    for launch in ("second", "third"):
        monkeypatch.setattr(attempts, "_counters", {})  # as in new processes
        with Job(shared, 2, run=run, attempt=token) as job:
            assert restored(job, 1)[0][0] == 1
            job.commit(2, lambda rank, launch=launch: state(rank, 2, launch))  # type: ignore[misc]
            assert restored(job) == [(2, launch)] * 2


def interrupt(job: Job, rank: int, step: int) -> None:
    """All ranks ask for ``step``; ``rank`` is interrupted after it was told which one, and the others give up waiting for it."""
    session = job.ranks[rank]._link.session
    assert session is not None
    call = session.load_call

    def interrupted(method: str, *arguments: Any, **named: Any) -> Any:
        if method == "Describe":
            raise KeyboardInterrupt
        return call(method, *arguments, **named)

    session.load_call = interrupted  # type: ignore[method-assign]

    def restore(checkpointer: cairn.Checkpointer) -> str:
        try:
            return str(checkpointer.restore({"a": np.zeros(500)}, step, timeout=0.5))
        except (cairn.CairnError, KeyboardInterrupt) as failure:
            return type(failure).__name__

    kinds = job.all(restore, [rank])
    session.load_call = call  # type: ignore[method-assign]
    assert kinds == ["KeyboardInterrupt"]


def test_after_an_interrupted_restore_another_step_can_be_restored(shared: Daemon, run: str) -> None:
    with Job(shared, 1, run=run) as job:
        for step in (1, 2):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]
        interrupt(job, 0, 2)
        assert restored(job, 1) == [(1, "first")]
        assert restored(job, 2) == [(2, "first")]


def test_an_interrupted_rank_comes_to_the_others_in_the_same_restore(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        for step in (1, 2):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]
        into = [{"a": np.zeros(500)} for _ in range(2)]

        def ask(rank: int) -> int | None:
            if rank == 1:
                interrupt(job, 1, 1)
                time.sleep(0.2)
            return job.ranks[rank].restore(into[rank], 1)

        assert together(ask, range(2)) == [1, 1]
        assert restored(job, 2) == [(2, "first")] * 2


def test_ranks_that_were_all_interrupted_go_for_another_step(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        for step in (1, 2):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]
        for rank in range(2):
            interrupt(job, rank, 2)
        assert restored(job, 1) == [(1, "first")] * 2
        assert restored(job) == [(2, "first")] * 2


def test_a_restore_that_a_restart_of_the_daemon_interrupted_goes_on(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    with Job(daemon, 1) as job:
        for step in (1, 2):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]
        interrupt(job, 0, 1)
        daemon.stop()
        daemon.start()
        job.ranks[0]._link.wait_for_session(30)
        assert restored(job, 1) == [(1, "first")]
        assert restored(job, 2) == [(2, "first")]


def stands(daemon: Daemon, run: str, attempt: int, name: str) -> None:
    """Wait for a record of an attempt."""
    until(lambda: list((daemon.run_folder(run) / f"attempts/{attempt:06}").glob(name)))


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
def test_a_rank_that_starts_late_is_in_the_restore_of_the_others(shared: Daemon, run: str, counted: bool) -> None:
    """Where the node's ranks are counted by the launcher, and where not; first there is nothing to restore, then there is."""
    for expected in (None, 1):
        attempt = secrets.token_hex(8)

        def opened(rank: int, attempt: str = attempt) -> cairn.Checkpointer:
            here = {"local_rank": rank, "local_world_size": 2} if counted else {}
            return shared.open(run, rank=rank, world_size=2, attempt=attempt, **here)

        with opened(0) as first, concurrent.futures.ThreadPoolExecutor(1) as pool:
            early = pool.submit(first.restore, state(0, 0))
            # Rank 0 has its answer; where nobody counted the node's ranks, it has settled too.
            stands(shared, run, 1 if expected is None else 2, "restore-1.json" if counted else "settled-1-*.json")
            assert not early.done(), "it must wait for the other one"
            with opened(1) as second:
                assert second.restore(state(1, 0)) == expected
                assert early.result(20) == expected
                # Their tries of a step are counted alike, or this would not be one save.
                for save in [one.save((expected or 0) + 1, state(one.rank, 1)) for one in (first, second)]:
                    assert save.wait("committed", timeout=30).level == "committed"


def test_a_rank_whose_state_does_not_fit_keeps_the_others_from_no_answer(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        for step in (1, 2, 3):
            job.commit(step, lambda rank, step=step: state(rank, step))  # type: ignore[misc]

        def restore(checkpointer: cairn.Checkpointer) -> str:
            try:
                return str(checkpointer.restore({"a": np.zeros(500 if checkpointer.rank == 0 else 7)}))
            except cairn.CairnError as failure:
                return f"{type(failure).__name__}: {failure}"

        begin = time.monotonic()
        answers = job.all(restore)
        assert time.monotonic() - begin < 15
        assert answers[0].startswith("Unavailable: another rank could not load step 1: rank 1: ")
        assert "'a' is [7]" in answers[0]
        assert answers[1].startswith("Mismatch: ")
        assert "'a' is [7]" in answers[1]
        assert restored(job) == [(3, "first")] * 2  # at once with each other again


def test_an_error_of_the_callers_own_function_is_raised_as_it_is(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        job.commit(1, lambda rank: state(rank, 1))

    def merge(trees: list[Any]) -> Any:
        raise RuntimeError("mine")

    with Job(shared, 1, run=run) as job, pytest.raises(RuntimeError, match="mine"):
        job.ranks[0].restore({}, objects=merge)
