"""Plain values that are equal on all ranks, a key's, or a rank's own: what the daemon checks, and what another world gets back."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import pytest
from in_process import Job, reason
from real_daemon import Daemon

import cairn
from cairn.scopes import Scopes

pytestmark = pytest.mark.daemon


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


def state(rank: int) -> dict[str, Any]:
    return {
        "epoch": 3,
        "schedule": {"lr": 0.5, "milestones": [1, (2, 3)], "best": {1, 2}},
        "loader": {"position": 100 + rank, "order": [rank, rank + 1]},
        "seed": rank,
        "w": np.arange(6.0),
    }


SCOPES: dict[str, Any] = {"shared": ["epoch", "schedule.*"], "replicated": True}


def keyed(rank: int) -> dict[str, Any]:
    return {"keyed": {"loader.*": f"data-{rank}"}}


def blank() -> dict[str, Any]:
    return {
        "epoch": None,
        "schedule": {"lr": None, "milestones": [None, (None, None)], "best": None},
        "loader": {"position": None, "order": None},
        "seed": None,
        "w": np.zeros(6),
    }


def restore(job: Job, **options: Any) -> tuple[list[int | None], list[dict[str, Any]]]:
    into = [blank() for _ in job.ranks]
    return job.all(lambda checkpointer: checkpointer.restore(into[checkpointer.rank], **options)), into


def test_each_rank_gets_its_own_back(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run, each=keyed, **SCOPES) as job:
        job.commit(1, state)
    with Job(shared, 2, run=run, **SCOPES) as job:  # what was whose is in the step
        steps, into = restore(job)
    assert steps == [1, 1]
    for rank, each in enumerate(into):
        assert (each.pop("w") == np.arange(6.0)).all()
        assert each == {key: value for key, value in state(rank).items() if key != "w"}


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_another_world_gets_what_is_not_a_single_ranks(shared: Daemon, run: str, before: int, after: int) -> None:
    with Job(shared, before, run=run, each=keyed, **SCOPES) as job:
        job.commit(1, state)
    with Job(shared, after, run=run, **SCOPES) as job, pytest.raises(cairn.WorldSizeChanged, match="a single rank's own"):
        restore(job)
    with Job(shared, after, run=run, each=lambda rank: keyed(rank % before), **SCOPES) as job:
        steps, into = restore(job, objects="skip")
    assert steps == [1] * after
    for rank, each in enumerate(into):
        assert (each["epoch"], each["seed"]) == (3, None)
        assert each["schedule"] == state(0)["schedule"]
        assert each["loader"] == state(rank % before)["loader"]
        assert (each["w"] == np.arange(6.0)).all()


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_a_function_merges_what_was_the_ranks_own(shared: Daemon, run: str, before: int, after: int) -> None:
    with Job(shared, before, run=run, replicated=True) as job:
        job.commit(1, state)

    def merge(trees: list[Any]) -> Any:
        assert [tree["seed"] for tree in trees] == list(range(before))
        assert [tree["w"] for tree in trees] == [None] * before
        return {"seed": sum(tree["seed"] for tree in trees), "epoch": trees[0]["epoch"]}

    with Job(shared, after, run=run, replicated=True) as job:
        steps, into = restore(job, objects=merge)
    assert steps == [1] * after
    assert [(each["seed"], each["epoch"]) for each in into] == [(sum(range(before)), 3)] * after


def test_a_state_without_values_of_single_ranks_goes_anywhere(shared: Daemon, run: str) -> None:
    with Job(shared, 3, run=run, shared=True, replicated=True) as job:
        job.commit(1, lambda rank: state(0))
    with Job(shared, 2, run=run, shared=True, replicated=True) as job:
        steps, into = restore(job)
    assert steps == [1, 1]
    assert all(each["loader"] == {"position": 100, "order": [0, 1]} and each["seed"] == 0 for each in into)


def test_private_tensors_are_a_single_ranks_own(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run, shared=True) as job:
        job.commit(1, lambda rank: state(0))
    with Job(shared, 3, run=run, shared=True) as job, pytest.raises(cairn.WorldSizeChanged, match="tensor 'w'"):
        restore(job)
    with Job(shared, 3, run=run, shared=True) as job:
        steps, into = restore(job, objects="skip")
    assert steps == [1] * 3
    assert all(not each["w"].any() and each["epoch"] == 3 for each in into)


def test_shared_values_that_differ_fail_the_save_on_all_ranks(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run, shared=True) as job:
        for save in job.save(1, lambda rank: {"epoch": rank}):
            why = reason(save)
            assert "cairn.shared.values" in why
            assert "ranks 0 and 1" in why
        job.commit(2, lambda rank: {"epoch": 5})
        with pytest.raises(cairn.CheckpointFailed, match=r"cairn\.shared"):
            job.ranks[0].check_for_errors()


def test_a_key_that_was_not_saved_is_missed(shared: Daemon, run: str) -> None:
    with Job(shared, 1, run=run, each=keyed, **SCOPES) as job:
        job.commit(1, state)

    def missed(checkpointer: cairn.Checkpointer) -> cairn.CairnError:
        with pytest.raises(cairn.CairnError) as caught:
            checkpointer.restore(blank(), objects="skip")
        return caught.value

    with Job(shared, 2, run=run, each=keyed, **SCOPES) as job:
        failures = job.all(missed)
    assert isinstance(failures[0], cairn.Unavailable)  # it could: the other one could not
    assert isinstance(failures[1], cairn.Mismatch)
    assert "key 'data-1'" in str(failures[1])


def test_rules_are_checked_and_the_first_pattern_of_a_key_counts() -> None:
    scopes = Scopes(["*"], {"a.*": "x", "a.b": "y"})
    assert [scopes.node_of(path) for path in ("a.b", "a.c", "b")] == [["k", 0], ["k", 0], "s"]
    with pytest.raises(ValueError, match="keyed"):
        Scopes(keyed={f"{number}": str(number) for number in range(9)})
    with pytest.raises(ValueError, match="keyed"):
        Scopes(keyed={"a": ""})
