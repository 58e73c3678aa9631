"""The fence against a real daemon whose staging stands still: who waits for it, how long, and what a save then holds.

Held: the state is larger than the pool and the tier's worker is stopped, so that eager bytes are staged, and lazy ones are not
until the worker goes on.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon, until

import cairn

pytestmark = pytest.mark.daemon

BIG = 40 << 20
"""Elements, of 4 bytes: more than the pool."""
WITHOUT_ROOM = 36 << 20
"""One of them that the pool has no room for at first; what is saved after them is staged at once, with the objects behind it."""


@pytest.fixture(scope="module")
def big() -> torch.Tensor:
    return torch.ones(BIG)


@pytest.fixture
def held(cluster: Cluster, big: torch.Tensor) -> Daemon:
    big.fill_(1)
    return cluster.daemon(pool="128MiB", limits={"fence": "20s"})


def restored(daemon: Daemon, names: list[str]) -> tuple[int | None, dict[str, Any]]:
    """What a later launch gets."""
    with daemon.open() as checkpointer:
        into: dict[str, Any] = {}
        return checkpointer.restore(into), {name: into.get(name) for name in names}


def test_eager_bytes_are_those_at_the_call(held: Daemon, big: torch.Tensor) -> None:
    checkpointer, eager = held.open(), torch.ones(1000)
    with held.paused("local") as pause:
        save = checkpointer.save(1, {"big": big, "eager": eager, "text": "at the call"}, lazy=["big"])
        assert not save.free
        eager.zero_()
        pause.resume()
    save.wait(timeout=30)
    checkpointer.close()
    step, found = restored(held, ["eager", "text"])
    assert step == 1
    assert bool((found["eager"] == 1).all())
    assert found["text"] == "at the call"


def test_a_save_with_nothing_eager_waits_for_no_copy(held: Daemon, big: torch.Tensor) -> None:
    checkpointer, values = held.open(), {"text": "at the call"}
    with held.paused("stager"):
        save = checkpointer.save(1, {"a": big[:1000], "values": values}, lazy=True)
        assert save.level == "accepted"
        values["text"] = "later"
    save.wait(timeout=30)
    checkpointer.close()
    assert restored(held, ["values"]) == (1, {"values": {"text": "at the call"}})


class Wrapper:
    """Does not call Optimizer's __init__."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state

    def step(self) -> None:
        self.inner.step()


class Foreign:
    """An optimizer that torch knows nothing of."""

    def __init__(self, parameter: torch.Tensor) -> None:
        self.param_groups = [{"params": [parameter]}]

    def step(self) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].sub_(1.0)


@pytest.mark.parametrize("kind", ["plain", "wrapper", "foreign", "backward"])
def test_the_optimizer_waits_for_lazy_bytes(held: Daemon, big: torch.Tensor, kind: str) -> None:
    parameter = torch.nn.Parameter(big)
    inner = torch.optim.SGD([parameter], lr=1.0)
    optimizer: Any = {"wrapper": Wrapper(inner), "foreign": Foreign(parameter)}.get(kind, inner)
    checkpointer = held.open()
    checkpointer.guard(optimizer)
    if kind == "backward":
        parameter.register_post_accumulate_grad_hook(lambda _: inner.step())
    else:
        parameter.grad = torch.ones_like(parameter)
    with held.paused("local") as pause:
        save = checkpointer.save(1, {"p": parameter, "buffer": torch.zeros(2)})
        assert not save.free
        pause.resume_after(0.2)
        if kind == "backward":
            parameter.sum().backward()
        else:
            optimizer.step()
        assert save.free
    assert bool((parameter == 0).all())
    save.wait(timeout=30)
    checkpointer.close()
    step, found = restored(held, ["p"])
    assert step == 1
    assert bool((found["p"] == 1).all())


def test_what_is_not_an_optimizer_cannot_be_guarded(held: Daemon) -> None:
    with held.open() as checkpointer, pytest.raises(TypeError):
        checkpointer.guard(object())


def test_lock_restore_and_the_next_save_fence(held: Daemon, big: torch.Tensor) -> None:
    with held.open() as checkpointer:
        for how in ("lock", "save", "restore"):
            with held.paused("local") as pause:
                save = checkpointer.save(1, {"a": big}, lazy=True)
                assert not save.free
                pause.resume_after(0.2)
                if how == "lock":
                    with checkpointer.lock():
                        assert save.free
                elif how == "save":
                    checkpointer.save(2, {"b": 1})
                    assert save.free
                else:
                    checkpointer.restore({})
                    assert save.free
            checkpointer.wait_until_finished(timeout=30)


@pytest.mark.parametrize("stopped", [["main"], ["main", "stager"], ["stager"]], ids="+".join)
def test_giving_up_hangs_up_before_memory_changes(cluster: Cluster, big: torch.Tensor, stopped: list[str]) -> None:
    """However late the daemon goes on, what it read after the client gave up is in no save."""
    daemon = cluster.daemon(pool="128MiB", limits={"fence": "1s"})
    big.fill_(1)
    checkpointer = daemon.open()
    with daemon.paused("local"):
        save = checkpointer.save(1, {"a": big}, lazy=True)
        with daemon.paused(*stopped):
            begin = time.monotonic()
            with checkpointer.lock():
                big.zero_()
            assert 0.5 < time.monotonic() - begin < 5
            assert save.level == "failed"
    with pytest.raises(cairn.CheckpointFailed, match="staged"):
        save.wait(timeout=5)
    with pytest.raises(cairn.CheckpointFailed):
        checkpointer.check_for_errors()
    checkpointer.check_for_errors()
    checkpointer._link.wait_for_session(20)
    big.fill_(2)
    assert checkpointer.save(2, {"a": big}).wait(timeout=30).level == "committed"
    assert checkpointer.all_steps() == [2]
    checkpointer.close()


def test_progress_extends_the_fence(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="128MiB", limits={"fence": "1s"})
    state = {f"a{number}": torch.full((4 << 20,), float(number)) for number in range(24)}  # 384 MiB
    with daemon.open() as checkpointer:
        pause = daemon.paused("local")
        save = checkpointer.save(1, state, lazy=True)

        def crawl() -> None:
            nonlocal pause
            for _ in range(5):
                time.sleep(0.4)
                mark = save._progress
                pause.resume()
                until(lambda mark=mark: save.free or save._progress != mark)
                pause = daemon.paused("local")
            pause.resume()

        thread = threading.Thread(target=crawl)
        thread.start()
        begin = time.monotonic()
        with checkpointer.lock():
            assert save.level != "failed", save.reason
        thread.join(30)
        assert time.monotonic() - begin > 1.0
        assert save.wait(timeout=30).level == "committed"


def test_a_daemon_that_never_answers_save_is_given_up(cluster: Cluster) -> None:
    daemon = cluster.daemon(limits={"fence": "1s"})
    with daemon.open() as checkpointer:
        for name in ("main", "stager"):
            with daemon.paused(name):
                begin = time.monotonic()
                save = checkpointer.save(1, {"a": torch.ones(1)})
                assert save.level == "failed"
                assert time.monotonic() - begin < 5
            checkpointer._link.wait_for_session(20)
            until(lambda: checkpointer.save(2, {"a": torch.ones(1)}).level != "failed")
            checkpointer.wait_until_finished(timeout=20)


def test_a_forked_child_drops_the_session(held: Daemon, big: torch.Tensor) -> None:
    with held.open() as checkpointer, held.paused("local") as pause:
        save = checkpointer.save(1, {"a": big}, lazy=True)
        child = os.fork()
        if child == 0:
            outcome = 1
            try:
                with checkpointer.lock():
                    inner = checkpointer.save(2, {"a": torch.ones(1)})
                checkpointer.close()
                outcome = 0 if inner.level == "failed" and "forked" in str(inner.reason) else 2
            finally:
                os._exit(outcome)
        assert os.waitpid(child, 0)[1] == 0
        assert not save.free
        pause.resume()
        assert save.wait(timeout=30).level == "committed"


def test_close_waits_until_staged_and_ends_all(held: Daemon, big: torch.Tensor) -> None:
    checkpointer = held.open()
    thread = checkpointer._link._thread
    with held.paused("local") as pause:
        save = checkpointer.save(1, {"a": big}, lazy=True)
        pause.resume_after(0.2)
        checkpointer.close(timeout=20)
    assert save.level not in ("accepted", "failed")
    assert checkpointer.save(2, {"a": torch.ones(1)}).level == "failed"
    checkpointer.close()
    assert thread is not None
    assert not thread.is_alive()
    with held.open() as later:
        until(lambda: later.all_steps() == [1], 30)


def test_memory_that_its_owner_lets_go_of_stays_until_staged(held: Daemon, big: torch.Tensor) -> None:
    """`.data =`, as offloading does it, puts another memory under a parameter: the one that was saved must not be freed."""
    parameter = torch.nn.Parameter(torch.ones(BIG))
    with held.open() as checkpointer:
        with held.paused("local") as pause:
            save = checkpointer.save(1, {"p": parameter}, lazy=True)
            assert not save.free
            parameter.data = torch.zeros(1)
            big.fill_(7)
            pause.resume()
        assert save.wait(timeout=30).level == "committed"
    step, found = restored(held, ["p"])
    assert step == 1
    assert bool((found["p"] == 1).all())


def test_what_changes_before_the_fence_is_told(held: Daemon, big: torch.Tensor) -> None:
    """load_state_dict() between save() and the fence: nobody keeps it from happening, but it does not pass in silence."""
    model = torch.nn.Linear(8, 8)
    with held.open() as checkpointer:
        checkpointer.guard(torch.optim.SGD(model.parameters(), lr=1.0))
        with held.paused("local") as pause:
            save = checkpointer.save(1, {"big": big, "model": model.state_dict()}, lazy=["big"])
            assert not save.free
            model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})
            pause.resume()
        with pytest.raises(cairn.CheckpointFailed, match=r"'model\.weight' was changed in place"):
            save.wait(timeout=30)
        assert checkpointer.save(2, {"model": model.state_dict()}).wait(timeout=30).level == "committed"


def test_what_changes_unseen_before_the_fence_fails_the_save_of_all_ranks_where_asked_for(held: Daemon, big: torch.Tensor) -> None:
    """A write through ``.data`` is none for torch's version counters."""
    weight, attempt = torch.ones(1000), secrets.token_hex(8)
    with (
        held.open(rank=0, world_size=2, attempt=attempt) as other,
        held.open(rank=1, world_size=2, attempt=attempt, verify_immutable=True) as checkpointer,
    ):
        with held.paused("local") as pause:
            saves = [other.save(1, {"step": 1}), checkpointer.save(1, {"big": big, "weight": weight}, lazy=True)]
            assert not saves[1].free
            version = big._version
            big.data[WITHOUT_ROOM] = 2
            assert big._version == version
            pause.resume()
        for save in saves:
            with pytest.raises(cairn.CheckpointFailed, match="tensor 'big' was changed between"):
                save.wait(timeout=30)
        assert "rank 1" in str(saves[0].reason)
        saves = [other.save(2, {"step": 2}), checkpointer.save(2, {"weight": weight}, lazy=True)]
        assert [save.wait(timeout=30).level for save in saves] == ["committed", "committed"]
        assert checkpointer.all_steps() == [2]
