"""The client and a real daemon that does what it should: futures, levels, restores in place, what does not fit."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from real_daemon import Daemon, Opener

import cairn
from cairn import limits

pytestmark = pytest.mark.daemon


def test_a_save_resolves_its_futures(open_run: Opener) -> None:
    checkpointer = open_run()
    save = checkpointer.save(7, {"a": torch.ones(3), "epoch": 1}, metadata={"note": "x"})
    assert save.wait(timeout=20).level == "committed"
    assert [f.result(1).step for f in (save.staged, save.local, save.durable, save.committed)] == [7] * 4
    assert save.done
    assert save._held == []
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


@pytest.mark.parametrize("name", ["", "a" * 5000])
def test_an_invalid_shard_is_raised(open_run: Opener, name: str) -> None:
    checkpointer = open_run()
    state = {name: torch.ones(1)}
    if name:
        with pytest.raises(cairn.InvalidShard, match="aaaa"):
            checkpointer.save(1, state)
    else:
        checkpointer.save(1, state).wait(timeout=20)  # an empty key gets a name


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


def test_large_tensors_come_in_many_loads(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE_BYTES", 1 << 16)
    state = {"big": torch.randn(1000, 333), "long": torch.randn(100_001), "blob": os.urandom(100_000)}
    checkpointer = open_run()
    checkpointer.save(1, state).wait(timeout=20)
    into: dict[str, Any] = {"big": torch.zeros(1000, 333), "long": torch.zeros(100_001)}
    assert checkpointer.restore(into) == 1
    assert same(state, into)


def test_nothing_to_restore_is_none(open_run: Opener) -> None:
    checkpointer = open_run()
    assert checkpointer.restore({"a": torch.ones(1)}) is None
    with pytest.raises(cairn.NoSuchStep):
        checkpointer.restore({"a": torch.ones(1)}, 3)


def test_a_mismatch_changes_nothing(open_run: Opener) -> None:
    checkpointer = open_run()
    checkpointer.save(1, {"a": torch.ones(3), "b": torch.ones(2), "v": 1}).wait(timeout=20)
    state = {"a": torch.zeros(3), "b": torch.zeros(5), "v": 0}
    with pytest.raises(cairn.Mismatch, match="'b'"):
        checkpointer.restore(state)
    assert state["v"] == 0
    assert not state["a"].any()  # type: ignore[attr-defined]
    again = open_run()
    assert again.restore(state, strict=False) == 1
    assert state["a"].all()  # type: ignore[attr-defined]
    assert state["v"] == 1


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
    open_run().save(1, {"model": model, "optim": optimizer}).wait(timeout=20)
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
    checkpointer.save(1, {"rng": cairn.rng_state()}).wait(timeout=20)
    expected = (random.random(), float(np.random.rand()), torch.rand(3))
    state: dict[str, Any] = {}
    checkpointer.restore(state)
    cairn.set_rng_state(state["rng"])
    assert (random.random(), float(np.random.rand())) == expected[:2]
    assert torch.equal(torch.rand(3), expected[2])


def test_tied_weights_are_restored_in_place_and_stay_tied(open_run: Opener) -> None:
    def make() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False))
        model[1].weight = model[0].weight
        return model

    first = make()
    open_run().save(1, {"model": first}).wait(timeout=20)
    for state_of in (lambda model: {"model": model}, lambda model: {"model": model.state_dict()}):
        second = make()
        assert open_run().restore(state_of(second)) == 1
        assert second[0].weight is second[1].weight  # type: ignore[index]
        assert torch.equal(first[0].weight, second[0].weight)  # type: ignore[index]


def test_untied_weights_get_the_same_bytes_each(open_run: Opener) -> None:
    weight = torch.randn(5, 5)
    open_run().save(1, {"a": weight, "b": weight}).wait(timeout=20)
    into = {"a": torch.zeros(5, 5), "b": torch.zeros(5, 5, dtype=torch.float64)}
    assert open_run().restore(into, strict=False) == 1
    assert torch.equal(into["a"], weight)
    assert torch.equal(into["b"], weight.double())


def test_a_call_that_is_interrupted_leaves_no_reply_behind(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = open_run()
    session = checkpointer._link.session
    assert session is not None

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.calls, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(1, {"a": torch.ones(1)})
    checkpointer._link.wait_for_session(20)
    assert checkpointer._link.session is not session
    assert checkpointer.save(2, {"a": torch.ones(1)}).wait(timeout=20).level == "committed"
    session = checkpointer._link.session
    assert session is not None
    with monkeypatch.context() as patch:
        patch.setattr(session.loads, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.restore({})
    into = {"a": torch.zeros(1)}
    assert open_run().restore(into) == 2
    assert into["a"].all()


def test_threads_may_save_and_ask_at_once(open_run: Opener) -> None:
    checkpointer = open_run()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(number, 40, 4):
                checkpointer.save(step, {"a": torch.full((1000,), float(step)), "step": step})
                checkpointer.all_steps()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    checkpointer.wait_until_finished(timeout=30)
    checkpointer.check_for_errors()
    for step in checkpointer.all_steps()[:4]:
        into = {"a": torch.zeros(1000), "step": -1}
        checkpointer.restore(into, step)
        assert bool((into["a"] == step).all())  # type: ignore[attr-defined]
        assert into["step"] == step


def test_a_save_of_400_lazy_tensors_returns_at_once(open_run: Opener) -> None:
    checkpointer = open_run()
    state = {f"p{number}": torch.zeros(100) for number in range(400)}
    checkpointer.save(0, state, lazy=True).wait(timeout=20)
    times = []
    for step in range(1, 20):
        begin = time.perf_counter()
        save = checkpointer.save(step, state, lazy=True)
        times.append(time.perf_counter() - begin)
        save.wait(timeout=20)
    assert min(times) < 0.01, f"{min(times) * 1000:.2f} ms"


def test_a_run_is_not_seen_under_another_name(open_run: Opener, shared: Daemon) -> None:
    open_run().save(1, {"v": 1}).wait(timeout=20)
    with shared.open("another") as other:
        assert other.steps() == []
        assert other.restore({}) is None
