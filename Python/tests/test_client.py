"""The client against a daemon in this process: fences, futures, failures, restores."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from fake_daemon import FakeDaemon, Opener, Refusal

import cairn
from cairn import limits


def until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def test_a_save_resolves_its_futures(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    save = checkpointer.save(7, {"a": torch.ones(3), "epoch": 1}, metadata={"note": "x"})
    assert save.wait(timeout=10).level == "committed"
    assert [f.result(1).step for f in (save.staged, save.local, save.durable, save.committed)] == [7] * 4
    assert save.done
    assert save._held == []
    assert fake.saves["1-7-1"]["metadata"] == {"note": "x"}
    checkpointer.wait_until_finished(timeout=5)
    assert (checkpointer.all_steps(), checkpointer.latest_step()) == ([7], 7)


def test_levels_above_the_asked_one_say_so(open_run: Opener) -> None:
    checkpointer = open_run(every={"memory": 1, "local": 5, "global": 10})
    levels = [checkpointer.save(step, {"a": torch.ones(1)}).upto for step in (1, 5, 10)]
    assert levels == ["staged", "local", "committed"]
    save = checkpointer.save(11, {"a": torch.ones(1)})
    assert save.wait().level == "staged"
    with pytest.raises(cairn.LevelNotAsked):
        save.wait("durable", timeout=5)
    assert checkpointer.should_save(3)
    assert not open_run(every={"local": 5}).should_save(3)
    with pytest.raises(ValueError, match="no level"):
        checkpointer.save(1, {}, level="disk")


def test_eager_bytes_are_those_at_the_call(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer, tensor = open_run(), torch.ones(4)
    fake.hold = True
    checkpointer.save(1, {"a": tensor})
    tensor.zero_()
    fake.release_now.set()
    checkpointer.wait_until_finished(timeout=10)
    assert fake.saves["1-1-1"]["bytes"]["a"] == torch.ones(4).numpy().tobytes()


def test_the_optimizer_waits_for_lazy_bytes(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    checkpointer.guard(optimizer)
    fake.hold = True
    save = checkpointer.save(1, {"p": parameter, "buffer": torch.zeros(2)})
    assert not save.free
    threading.Timer(0.2, fake.release_now.set).start()
    parameter.grad = torch.ones(4)
    optimizer.step()
    assert save.free
    assert fake.release_now.is_set()
    assert fake.saves["1-1-1"]["bytes"]["p"] == torch.ones(4).numpy().tobytes()
    assert torch.equal(parameter.detach(), torch.zeros(4))


def test_a_wrapped_or_foreign_optimizer_fences_too(open_run: Opener, fake: FakeDaemon) -> None:
    class Wrapper:  # does not call Optimizer's __init__
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state

        def step(self) -> None:
            self.inner.step()

    class Foreign:
        param_groups: list[dict[str, Any]] = []  # noqa: RUF012

        def step(self) -> str:
            return "stepped"

    checkpointer = open_run()
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    for optimizer in (Wrapper(torch.optim.SGD([parameter], lr=1.0)), Foreign()):
        checkpointer.guard(optimizer)
        fake.hold = True
        fake.release_now.clear()
        save = checkpointer.save(1, {"p": parameter}, lazy=True)
        assert not save.free
        threading.Timer(0.1, fake.release_now.set).start()
        optimizer.step()
        assert save.free
    with pytest.raises(TypeError):
        checkpointer.guard(object())


def test_lock_fences(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer, tensor = open_run(), torch.ones(4)
    fake.hold = True
    save = checkpointer.save(1, {"a": tensor}, lazy=True)
    threading.Timer(0.1, fake.release_now.set).start()
    with checkpointer.lock():
        assert save.free
        tensor.zero_()
    assert fake.saves["1-1-1"]["bytes"]["a"] == torch.ones(4).numpy().tobytes()


def test_giving_up_hangs_up_before_memory_changes(open_run: Opener, fake: FakeDaemon) -> None:
    fake.fence_ms = 300
    checkpointer, tensor = open_run(), torch.ones(4)
    fake.hold = True
    save = checkpointer.save(1, {"a": tensor}, lazy=True)
    begin = time.monotonic()
    with checkpointer.lock():
        tensor.zero_()
    assert 0.2 < time.monotonic() - begin < 5
    assert save.level == "failed"
    fake.release_now.set()
    until(lambda: fake.hung_up_before_staged)
    with pytest.raises(cairn.CheckpointFailed, match="nothing of it was staged"):
        save.wait(timeout=5)
    with pytest.raises(cairn.CheckpointFailed):
        checkpointer.check_for_errors()
    checkpointer.check_for_errors()
    fake.hold = False
    until(lambda: checkpointer._link.session is not None)
    assert checkpointer.save(2, {"a": tensor}).wait(timeout=10).level == "committed"


def test_progress_extends_the_fence(open_run: Opener, fake: FakeDaemon) -> None:
    fake.fence_ms = 400
    checkpointer = open_run()
    fake.hold = True
    save = checkpointer.save(1, {"a": torch.ones(4)}, lazy=True)

    def progress() -> None:
        for _ in range(6):
            time.sleep(0.2)
            fake.event("1-1-1", "accepted")
        fake.release_now.set()

    threading.Thread(target=progress, daemon=True).start()
    with checkpointer.lock():
        assert save.level in ("staged", "local", "global", "committed")


def test_a_daemon_that_never_answers_save_is_given_up(open_run: Opener, fake: FakeDaemon) -> None:
    fake.fence_ms = 200
    checkpointer = open_run()
    fake.mute = True
    save = checkpointer.save(1, {"a": torch.ones(1)})
    assert save.level == "failed"
    fake.mute = False
    until(lambda: checkpointer._link.session is not None)
    assert checkpointer.save(2, {"a": torch.ones(1)}).wait(timeout=10)


@pytest.mark.parametrize("name", ["Busy", "NoSpace", "TierDown", "Draining", "AttemptEnded"])
def test_a_refused_save_is_a_failed_one(open_run: Opener, fake: FakeDaemon, name: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpointer = open_run()
    fake.refuse = Refusal(name, step=1)
    with caplog.at_level(logging.WARNING, "cairn"):
        save = checkpointer.save(1, {"a": torch.ones(1)})
    assert save.level == "failed"
    assert name in str(save.reason)
    assert name in caplog.text
    assert checkpointer.failures == 1


def test_failures_are_raised_where_asked_for(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run(on_failure="raise")
    fake.refuse = Refusal("NoSpace", tier="local")
    checkpointer.save(1, {"a": torch.ones(1)})
    fake.refuse = None
    with pytest.raises(cairn.CheckpointFailed, match="NoSpace"):
        checkpointer.save(2, {"a": torch.ones(1)})
    assert checkpointer.save(3, {"a": torch.ones(1)}).wait(timeout=10)


def test_an_invalid_shard_is_raised(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    fake.refuse = Refusal("InvalidShard", name="a", reason="because")
    with pytest.raises(cairn.InvalidShard, match="because"):
        checkpointer.save(1, {"a": torch.ones(1)})


def test_without_a_daemon_training_goes_on(fake: FakeDaemon, open_run: Opener, caplog: pytest.LogCaptureFixture) -> None:
    fake.stop()
    with caplog.at_level(logging.WARNING, "cairn"):
        checkpointer = open_run()
        saves = [checkpointer.save(step, {"a": torch.ones(1)}) for step in range(50)]
    assert all(save.level == "failed" for save in saves)
    assert len(caplog.records) == 2
    assert checkpointer.failures == 50
    checkpointer.wait_until_finished(timeout=1)
    fake.start()
    until(lambda: checkpointer._link.session is not None, 30)
    assert checkpointer.save(50, {"a": torch.ones(1)}).wait(timeout=10)
    fake.stop()
    raising = open_run(on_unavailable="raise")
    with pytest.raises(cairn.Unavailable):
        raising.save(1, {"a": torch.ones(1)})
    fake.start()


def test_a_restore_without_a_daemon_is_no_fresh_start(fake: FakeDaemon, open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.stop()
    monkeypatch.setattr(limits, "CALL_SECONDS", 0.2)
    with pytest.raises(cairn.Unavailable, match="CAIRN_SOCKET"):
        open_run().restore({})
    fake.start()


def test_a_restarted_daemon_is_found_again(fake: FakeDaemon, open_run: Opener) -> None:
    checkpointer = open_run()
    tensor = torch.ones(2)
    checkpointer.save(1, {"a": tensor}).wait(timeout=10)
    fake.hold = True
    pending = checkpointer.save(2, {"a": tensor}, lazy=True)
    fake.stop()
    with pytest.raises(cairn.CheckpointFailed, match="ended before it was staged"):
        pending.wait(timeout=10)
    fake.release_now.set()
    fake.hold = False
    fake.start()
    until(lambda: checkpointer._link.session is not None, 30)
    assert checkpointer.save(3, {"a": tensor}).wait(timeout=10).level == "committed"
    assert len(fake.registered) == 3


def test_a_staged_save_is_followed_over_a_restart(fake: FakeDaemon, open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = open_run()
    monkeypatch.setattr(fake, "_stage", lambda save, calls: fake.event(save, "staged"))
    save = checkpointer.save(1, {"a": torch.ones(1)})
    save.wait("staged", timeout=10)
    fake.stop()
    fake.saves["1-1-1"]["level"] = "committed"
    fake.start()
    assert save.wait("committed", timeout=30).level == "committed"


def test_too_long_without_a_commit_is_raised_where_asked_for(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run(max_without_commit=0.05)
    fake.refuse = Refusal("NoSpace", tier="local")
    time.sleep(0.1)
    with pytest.raises(cairn.NoCommit):
        checkpointer.save(2, {"a": torch.ones(1)})


def test_a_forked_child_drops_the_session(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    fake.hold = True
    save = checkpointer.save(1, {"a": torch.ones(1)}, lazy=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = b"wrong"
        try:
            with checkpointer.lock():
                inner = checkpointer.save(2, {"a": torch.ones(1)})
            checkpointer.close()
            outcome = b"right" if inner.level == "failed" and "forked" in str(inner.reason) else outcome
        finally:
            os.write(write, outcome)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"right"
    assert not save.free
    fake.release_now.set()
    assert save.wait(timeout=10).level == "committed"
    os.close(read)
    os.close(write)


def test_close_waits_until_staged_and_ends_all(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    fake.hold = True
    save = checkpointer.save(1, {"a": torch.ones(1)}, lazy=True)
    threading.Timer(0.2, fake.release_now.set).start()
    checkpointer.close(timeout=10)
    assert save.level != "accepted"
    assert fake.calls[-1] == "Close"
    assert checkpointer.save(2, {"a": torch.ones(1)}).level == "failed"
    checkpointer.close()
    assert not any(thread.name == "cairn-watch" for thread in threading.enumerate() if thread is checkpointer._link._thread)


STATE = {
    "model": {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "t": torch.arange(6).reshape(2, 3).t()},
    "list": [np.arange(5), {"x": torch.tensor(1.5)}], "epoch": 3, "rng": b"abc", "empty": torch.zeros(0, 2), "odd": {1, 2},
}  # fmt: skip


def blank(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: blank(value) for key, value in node.items()}
    if isinstance(node, list):
        return [blank(value) for value in node]
    if isinstance(node, torch.Tensor):
        return torch.zeros_like(node)
    return np.zeros_like(node) if isinstance(node, np.ndarray) else None


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return bool(np.array_equal(left, right)) if isinstance(left, np.ndarray) else bool(left == right)


def test_a_state_comes_back_in_place_and_into_nothing(open_run: Opener) -> None:
    open_run().save(4, STATE).wait(timeout=10)
    into = blank(STATE)
    addresses = [into["model"]["w"].data_ptr(), into["list"][0].ctypes.data]
    assert open_run().restore(into) == 4
    assert same(STATE, into)
    assert addresses == [into["model"]["w"].data_ptr(), into["list"][0].ctypes.data]
    nothing: dict[str, Any] = {}
    assert open_run().restore(nothing, 4) == 4
    assert same(STATE, nothing)


def test_large_tensors_come_in_many_loads(open_run: Opener, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE_BYTES", 1 << 16)
    state = {"big": torch.randn(1000, 333), "long": torch.randn(100_001), "blob": os.urandom(100_000)}
    checkpointer = open_run()
    checkpointer.save(1, state).wait(timeout=10)
    into: dict[str, Any] = {"big": torch.zeros(1000, 333), "long": torch.zeros(100_001)}
    assert checkpointer.restore(into) == 1
    assert same(state, into)
    assert fake.calls.count("Load") > 10


def test_nothing_to_restore_is_none(open_run: Opener) -> None:
    checkpointer = open_run()
    assert checkpointer.restore({"a": torch.ones(1)}) is None
    with pytest.raises(cairn.NoSuchStep):
        checkpointer.restore({"a": torch.ones(1)}, 3)


def test_a_corrupt_step_gives_way_to_an_older_one(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    for step in (1, 2):
        checkpointer.save(step, {"a": torch.full((3,), float(step)), "v": step}).wait(timeout=10)
    fake.corrupt_steps = {2}
    state = {"a": torch.zeros(3), "v": 0}
    assert checkpointer.restore(state) == 1
    assert state["v"] == 1
    assert torch.equal(state["a"], torch.full((3,), 1.0))  # type: ignore[arg-type]
    fake.corrupt_steps = {1, 2}
    with pytest.raises(cairn.Corrupt):
        open_run().restore(state)


def test_a_mismatch_changes_nothing(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    checkpointer.save(1, {"a": torch.ones(3), "b": torch.ones(2), "v": 1}).wait(timeout=10)
    state = {"a": torch.zeros(3), "b": torch.zeros(5), "v": 0}
    with pytest.raises(cairn.Mismatch, match="'b'"):
        checkpointer.restore(state)
    assert state["v"] == 0
    assert not state["a"].any()  # type: ignore[attr-defined]
    fake.failed_steps = set()
    assert checkpointer.restore(state, strict=False) == 1
    assert state["a"].all()  # type: ignore[attr-defined]
    assert state["v"] == 1


def test_another_world_size_asks_what_to_do(open_run: Opener, fake: FakeDaemon) -> None:
    checkpointer = open_run()
    weight = torch.ones(3)
    checkpointer.save(1, {"a": weight, "tied": weight, "v": 7}).wait(timeout=10)
    fake.saves["1-1-1"]["worldSize"] = 2
    into = {"a": torch.zeros(3), "tied": torch.zeros(3), "v": 0}
    with pytest.raises(cairn.WorldSizeChanged, match="skip"):
        checkpointer.restore(into)
    fake.failed_steps = set()
    assert checkpointer.restore(into, objects="skip") == 1
    assert into["a"].all()  # type: ignore[attr-defined]
    assert into["tied"].all()  # type: ignore[attr-defined]
    assert into["v"] == 0


def test_modules_and_optimizers_save_and_restore_themselves(open_run: Opener) -> None:
    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = make()
    train(model, optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.05
    open_run().save(1, {"model": model, "optim": optimizer}).wait(timeout=10)
    other, stepped = make()
    assert open_run().restore({"model": other, "optim": stepped}) == 1
    assert stepped.param_groups[0]["lr"] == 0.05
    train(model, optimizer, 2)
    train(other, stepped, 2)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert same(optimizer.state_dict()["state"], stepped.state_dict()["state"])


def test_rng_state_comes_back(open_run: Opener) -> None:
    import random

    checkpointer = open_run()
    checkpointer.save(1, {"rng": cairn.rng_state()}).wait(timeout=10)
    expected = (random.random(), float(np.random.rand()), torch.rand(3))
    state: dict[str, Any] = {}
    checkpointer.restore(state)
    cairn.set_rng_state(state["rng"])
    assert (random.random(), float(np.random.rand())) == expected[:2]
    assert torch.equal(torch.rand(3), expected[2])


def test_a_save_of_400_lazy_tensors_returns_at_once(open_run: Opener) -> None:
    checkpointer = open_run()
    state = {f"p{number}": torch.zeros(100) for number in range(400)}
    checkpointer.save(0, state, lazy=True).wait(timeout=10)
    times = []
    for step in range(1, 20):
        begin = time.perf_counter()
        save = checkpointer.save(step, state, lazy=True)
        times.append(time.perf_counter() - begin)
        save.wait(timeout=10)
    assert min(times) < 0.01, f"{min(times) * 1000:.2f} ms"
