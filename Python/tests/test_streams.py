"""Streamed tensors against a real daemon: the way that a GPU's take, with tensors of the CPU. What differs on a GPU, the copies on a
stream of their own and the fence that waits there, is in test_cuda.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from in_process import reason, together
from real_daemon import Cluster, Daemon, Opener, trainer, until
from states import assert_same, emptied, every_dtype

import cairn
from cairn import limits, options, tensors

pytestmark = pytest.mark.daemon

MiB = 1 << 20


def numbers(count: int, seed: int = 0) -> torch.Tensor:
    """``count`` different int32."""
    return (torch.arange(count, dtype=torch.int32) * -1640531527) ^ seed


def strided() -> dict[str, torch.Tensor]:
    """Tensors whose bytes are not in row-major order, or not one run."""
    return {
        "transposed": numbers(3000 * 1100).view(3000, 1100).t(),
        "channels last": torch.randn(4, 8, 16, 16).to(memory_format=torch.channels_last),
        "columns": numbers(100 * 70).view(100, 70)[:, 3:40],
        "every third": numbers(90_000)[::3],
        "conjugate": torch.randn(50, 3, dtype=torch.complex128).conj(),
        "expanded": torch.randn(7, 1).expand(7, 300),
    }


@pytest.fixture
def slow(cluster: Cluster) -> Daemon:
    """Its pool is a quarter of what test states hold."""
    return cluster.daemon(pool="128MiB", limits={"fence": "20s"})


@pytest.fixture
def stopped_ring(slow: Daemon) -> Iterator[tuple[Daemon, cairn.Checkpointer, dict[str, torch.Tensor]]]:
    """A rank whose ring is there, and whose next save, larger than pool and ring, comes to a stop half-way."""
    state = {f"layer.{index}": numbers(8 << 20, index) for index in range(16)}
    with slow.open(streamed=True) as checkpointer:
        checkpointer.save(1, state, lazy=True).wait(timeout=60)
        yield slow, checkpointer, state


def test_every_kind_of_tensor_comes_back(open_run: Opener) -> None:
    state: dict[str, Any] = {
        "dtypes": every_dtype(), "strided": strided(), "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3),
        "big": numbers(20 << 20), "many": [torch.full((3,), float(index)) for index in range(3000)], "epoch": 7,
    }  # fmt: skip
    state["tied"] = state["big"]
    checkpointer = open_run(streamed=True)
    for step in (1, 2):
        checkpointer.save(step, state, lazy=True).wait(timeout=60)
        state["big"] += 1
    state["big"] -= 1
    into = emptied(state)
    into["tied"] = into["big"]
    assert checkpointer.restore(into) == 2
    assert_same(into, state)


def test_streamed_lazy_and_eager_tensors_share_a_save(open_run: Opener) -> None:
    state = {
        f"{way}.{index}": numbers(100_000 + 700_001 * index, index) for index in range(6) for way in ("lazy", "streamed", "eager")
    }
    checkpointer = open_run(streamed=["streamed.*"])
    before = {name: tensor.clone() for name, tensor in state.items()}
    save = checkpointer.save(1, state, lazy=["lazy.*", "streamed.[024]"])
    for name, tensor in state.items():
        if name.startswith("eager") or name in ("streamed.1", "streamed.3", "streamed.5"):
            tensor.zero_()
    with checkpointer.lock():
        for tensor in state.values():
            tensor.zero_()
    save.wait(timeout=60)
    assert checkpointer.restore(state) == 1
    assert_same(state, before)


def test_a_pool_of_a_quarter_is_enough_for_all_ranks(slow: Daemon) -> None:
    world = 4
    states = [{f"layer.{index}": numbers(4 << 20, 100 * rank + index) for index in range(8)} for rank in range(world)]
    ranks = [slow.open(rank=rank, world_size=world, local_world_size=world, attempt="a", streamed=True) for rank in range(world)]
    for step in (1, 2):
        for save in together(lambda rank, step=step: ranks[rank].save(step, states[rank], lazy=True), range(world)):
            save.wait(timeout=60)
    into = [emptied(state) for state in states]
    assert together(lambda rank: ranks[rank].restore(into[rank]), range(world)) == [2] * world
    assert_same(into, states)
    for one in ranks:
        one.close()


def test_replicas_and_eager_tensors_of_several_ranks(slow: Daemon) -> None:
    world = 3
    replicated = {f"layer.{index}": numbers(500_000, index) for index in range(5)}
    ranks = [
        slow.open(
            rank=rank, world_size=world, local_world_size=world, attempt="a", replicated=["model.*"], check_replicas=True,
            streamed=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    states = [{"model": replicated, "own": numbers(1000, 7 + rank)} for rank in range(world)]
    for save in together(lambda rank: ranks[rank].save(1, states[rank]), range(world)):
        save.wait(timeout=60)
    into = [emptied(state) for state in states]
    assert together(lambda rank: ranks[rank].restore(into[rank]), range(world)) == [1] * world
    assert_same(into, states)
    for one in ranks:
        one.close()


def test_the_fence_waits_for_the_last_copy_and_no_longer(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="256MiB")
    with daemon.open(streamed=True) as checkpointer:
        state = {"a": numbers(6 << 20), "step": torch.tensor(3.0)}
        before = state["a"].clone()
        checkpointer.save(1, state, lazy=True).wait(timeout=60)
        with daemon.paused("stager"):
            save = checkpointer.save(2, state, lazy=True)
            with checkpointer.lock():
                assert save.level == "accepted"  # what is left fits the ring
                state["a"].zero_()
        save.wait(timeout=60)
        assert checkpointer.restore(state) == 2
        assert_same(state["a"], before)


def test_the_fence_waits_while_the_ring_is_full(
    stopped_ring: tuple[Daemon, cairn.Checkpointer, dict[str, torch.Tensor]],
) -> None:
    daemon, checkpointer, state = stopped_ring
    before = {name: tensor.clone() for name, tensor in state.items()}
    with daemon.paused("local") as pause:
        save = checkpointer.save(2, state, lazy=True)
        pause.resume_after(0.5)
        begin = time.monotonic()
        with checkpointer.lock():
            assert time.monotonic() - begin > 0.4
            for tensor in state.values():
                tensor.zero_()
    save.wait(timeout=60)
    assert checkpointer.restore(state) == 2
    assert_same(state, before)


def test_an_optimizer_that_owns_what_is_streamed_trains_on(open_run: Opener) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 500))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    checkpointer = open_run(streamed=True)
    checkpointer.guard(optimizer)
    kept: dict[int, Any] = {}

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    saves = []
    for step in range(1, 9):
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        kept[step] = {
            "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
            "moments": [moment["exp_avg_sq"].clone() for moment in optimizer.state.values()],
        }
        saves.append(checkpointer.save(step, state()))
    for save in saves:
        save.wait(timeout=60)
    layout = checkpointer._layouts.last
    assert layout is not None
    streamed = {layout.leaves[index].name: layout.leaves[index].eager for index in layout.streamed}
    assert streamed["model.0.weight"] is False, "channels_last, and the optimizer's"
    assert streamed["model.1.running_mean"] is True
    assert not layout.lazy_tensors, "the fence waits for no copy by the daemon"
    for step in (8, 7):
        assert checkpointer.restore(into := state(), step) == step
        assert_same(model.state_dict(), kept[step]["model"])
        moments = [moment["exp_avg_sq"] for moment in optimizer.state.values()]
        assert_same(moments, kept[step]["moments"])
        assert into


def test_what_nobody_guards_is_copied_before_save_returns(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, before = open_run(streamed=True), numbers(10 << 20)
    for step, most in ((1, limits.CLONE_BYTES), (2, 1000)):
        monkeypatch.setattr(limits, "CLONE_BYTES", most)
        state = {"a": before.clone(), "b": before[:1000].clone()}
        save = checkpointer.save(step, state)
        for tensor in state.values():
            tensor.zero_()
        save.wait(timeout=60)
        assert checkpointer.restore(state) == step
        assert_same(state, {"a": before, "b": before[:1000]})


def test_no_room_for_clones_makes_save_wait(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, before = open_run(streamed=True), numbers(10 << 20)
    state = {"a": before.clone()}

    def clone(self: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", clone)
        save = checkpointer.save(1, state)
    state["a"].zero_()
    save.wait(timeout=60)
    assert checkpointer.restore(state) == 1
    assert_same(state, {"a": before})


def test_a_tensor_that_changes_before_its_copy_fails_the_save(
    stopped_ring: tuple[Daemon, cairn.Checkpointer, dict[str, torch.Tensor]],
) -> None:
    daemon, checkpointer, state = stopped_ring
    with daemon.paused("local") as pause:
        save = checkpointer.save(2, state, lazy=True)
        state["layer.9"].zero_()
        pause.resume()
    assert "'layer.9' was changed in place" in reason(save)
    checkpointer._link.wait_for_session(20)
    checkpointer.save(3, state, lazy=True).wait(timeout=60)
    assert checkpointer.all_steps() == [1, 3]


@pytest.mark.parametrize("role", ["main", "stager"])
def test_a_daemon_that_dies_in_mid_stream_costs_that_save(
    role: str, stopped_ring: tuple[Daemon, cairn.Checkpointer, dict[str, torch.Tensor]]
) -> None:
    daemon, checkpointer, state = stopped_ring
    ring = checkpointer._streams._ring
    worker = daemon.workers()[role] if role != "main" else None
    with daemon.paused("local"):
        save = checkpointer.save(2, state, lazy=True)
        time.sleep(0.2)
        assert save.level == "accepted"
        if worker is None:
            daemon.stop(signal.SIGKILL)
        else:
            os.kill(worker, signal.SIGKILL)
        with checkpointer.lock():
            for tensor in state.values():
                tensor.add_(1)
    assert "ended" in reason(save)  # the session, or the stager
    if worker is None:
        daemon.start()
    checkpointer._link.wait_for_session(20)
    checkpointer.save(3, state, lazy=True).wait(timeout=60)
    assert checkpointer._streams._ring is not ring
    into = emptied(state)
    assert checkpointer.restore(into) == 3
    assert_same(into, state)


RANK = """
import sys
import torch
import cairn
checkpointer = cairn.Checkpointer("dies", rank=1, world_size=2, local_world_size=2, socket=sys.argv[1], attempt="a", streamed=True)
state = {f"layer.{index}": torch.full((8 << 20,), float(index)) for index in range(16)}
checkpointer.save(1, state, lazy=True).wait(timeout=60)
print("one", flush=True)
sys.stdin.readline()
checkpointer.save(2, state, lazy=True)
print("two", flush=True)
sys.stdin.readline()
"""


@pytest.mark.seconds(120)
def test_a_rank_that_dies_in_mid_stream_leaves_nothing_visible(slow: Daemon) -> None:
    process = trainer(RANK, slow.socket)
    assert process.stdout is not None
    assert process.stdin is not None
    with slow.open("dies", rank=0, world_size=2, local_world_size=2, attempt="a", streamed=True) as checkpointer:
        state = {"a": numbers(1000)}
        first = checkpointer.save(1, state)
        assert process.stdout.readline() == "one\n"
        first.wait(timeout=60)
        with slow.paused("local"):
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "two\n"
            second = checkpointer.save(2, state)
            time.sleep(0.2)
            process.kill()
            process.wait()
        assert "rank 1" in reason(second)
        assert [folder.name.split(".")[0] for folder in slow.step_folders("dies")] == ["step-1"]
        assert checkpointer.all_steps() == [1]


def test_the_ring_is_kept_and_given_back(open_run: Opener, shared: Daemon) -> None:
    checkpointer = open_run(streamed=True, ring_bytes=8 * MiB)
    state = {"a": numbers(5 << 20)}
    checkpointer.save(1, state, lazy=True).wait(timeout=60)
    ring = checkpointer._streams._ring
    assert ring is not None
    assert [slot.lease.bytes for slot in ring.slots] == [2 * MiB] * limits.RING_SLOTS
    for step in (2, 3):
        checkpointer.save(step, state, lazy=True).wait(timeout=60)
        assert checkpointer.restore({"a": torch.zeros_like(state["a"])}) == step
    assert checkpointer._streams._ring is ring
    checkpointer.close()
    assert checkpointer._streams._ring is None
    assert not [thread for thread in threading.enumerate() if thread.name == "cairn-stream"]


def test_tensors_with_new_addresses_need_no_new_layout(open_run: Opener) -> None:
    checkpointer = open_run(streamed=True)
    layouts = []
    for step in range(1, 5):
        kept = [numbers(1 << 20, index) for index in range(step)]
        state = {"a": kept[-1]}
        checkpointer.save(step, state).wait(timeout=60)
        into = {"a": torch.zeros(1 << 20, dtype=torch.int32)}
        assert checkpointer.restore(into) == step
        assert_same(into, state)
        assert checkpointer._layouts.last is not None
        layouts.append(checkpointer._layouts.last.registered)
    assert len(set(layouts[1:])) == 1


def test_a_refused_put_ends_the_save_at_once(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a client whose order is not the daemon's."""
    checkpointer = open_run(streamed=True)
    state = {"half": torch.ones(1000, dtype=torch.float16), "whole": torch.ones(1000)}
    monkeypatch.setitem(sys.modules["cairn.dtypes"].BYTES, "F16", 8)
    save = checkpointer.save(1, state, lazy=True)
    assert "the file's order" in reason(save)
    monkeypatch.undo()
    checkpointer._layouts.last = None
    checkpointer._link.wait_for_session(20)
    checkpointer.save(2, state, lazy=True).wait(timeout=60)


def test_a_failed_copy_ends_the_save_at_once(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    from cairn.streams import Copies

    checkpointer = open_run(streamed=True)

    def copy(self: Copies, target: Any, source: Any) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(Copies, "copy", copy)
        save = checkpointer.save(1, {"a": numbers(1000)}, lazy=True)
        with checkpointer.lock():
            assert "illegal memory access" in reason(save)
    checkpointer._link.wait_for_session(20)
    checkpointer.save(2, {"a": numbers(1000)}, lazy=True).wait(timeout=60)


def test_a_daemon_that_stands_still_does_not_hold_the_trainer(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="128MiB", limits={"fence": "2s"})
    with daemon.open(streamed=True, ring_bytes=4 * MiB) as checkpointer:
        state = {"a": numbers(8 << 20)}
        checkpointer.save(1, state, lazy=True).wait(timeout=60)
        with daemon.paused("stager"):
            save = checkpointer.save(2, state, lazy=True)
            begin = time.monotonic()
            with checkpointer.lock():
                pass
            assert 1 < time.monotonic() - begin < 15
            assert reason(save)
        until(lambda: checkpointer._link.session is not None)
        checkpointer.save(3, state, lazy=True).wait(timeout=60)


def test_a_forked_child_leaves_the_stream_alone(open_run: Opener) -> None:
    checkpointer, state = open_run(streamed=True), {"a": numbers(10 << 20)}
    save = checkpointer.save(1, state, lazy=True)
    child = os.fork()
    if child == 0:
        with checkpointer.lock():
            os._exit(0 if checkpointer._streams._ring is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    save.wait(timeout=60)
    assert checkpointer.restore({"a": torch.zeros_like(state["a"])}) == 1


@pytest.mark.parametrize("count", [0, -1, limits.RING_LEAST_BYTES - 1, limits.RING_MOST_BYTES + 1])
def test_a_ring_of_no_size_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="ring_bytes"):
        options.ring_bytes_of(count)


def test_which_tensors_fill_one_run_of_memory() -> None:
    found = {name: tensors.fills_run(tensor) for name, tensor in strided().items()}
    assert found == {
        "transposed": True, "channels last": True, "columns": False, "every third": False, "conjugate": True, "expanded": False,
    }  # fmt: skip
    assert tensors.fills_run(torch.tensor(1.0))
