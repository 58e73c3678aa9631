"""Tensors on a GPU, saved and restored through a real daemon. Skipped, with the reason, where torch has no CUDA."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon, Opener
from states import assert_same, emptied, every_dtype

import cairn
from cairn import limits

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason=f"torch {torch.__version__} finds no CUDA device: the GPU path is tested with CPU tensors in test_streams.py only",
    ),
]

MiB = 1 << 20


def on_gpu(node: Any) -> Any:
    if isinstance(node, torch.Tensor):
        return node.cuda()
    if isinstance(node, dict):
        return {key: on_gpu(value) for key, value in node.items()}
    return node


def on_cpu(node: Any) -> Any:
    if isinstance(node, torch.Tensor):
        return node.cpu()
    if isinstance(node, dict):
        return {key: on_cpu(value) for key, value in node.items()}
    return node


@pytest.fixture
def big(cluster: Cluster) -> Daemon:
    return cluster.daemon(pool="256MiB", limits={"fence": "20s"})


def test_every_dtype_and_stride_comes_back(open_run: Opener) -> None:
    state: dict[str, Any] = on_gpu({"dtypes": every_dtype(), "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)})
    state["channels last"] = torch.randn(4, 8, 16, 16, device="cuda").to(memory_format=torch.channels_last)
    state["columns"] = torch.randn(100, 70, device="cuda")[:, 3:40]
    state["on the CPU"] = torch.randn(100)
    checkpointer = open_run()
    checkpointer.save(1, state).wait(timeout=60)
    into = emptied(state)
    assert checkpointer.restore(into) == 1
    assert_same(on_cpu(into), on_cpu(state))
    # Where each tensor is restored to is the state's own matter.
    cpu = on_cpu(emptied(state))
    assert checkpointer.restore(cpu) == 1
    assert_same(cpu, on_cpu(state))


def test_a_pool_of_a_quarter_is_enough(big: Daemon) -> None:
    state = {f"layer.{index}": torch.randn(16 << 20, device="cuda") for index in range(16)}
    with big.open() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state, lazy=True).wait(timeout=60)
        into = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        assert checkpointer.restore(into) == 2
        assert_same(on_cpu(into), on_cpu(state))


def test_the_fence_waits_on_the_gpu_and_not_on_the_cpu(open_run: Opener) -> None:
    """A copy that waits behind a long computation: the fence returns, and the change comes after the copy all the same."""
    checkpointer, state = open_run(), {"a": torch.ones(8 << 20, device="cuda"), "step": torch.tensor(1.0)}
    checkpointer.save(1, state, lazy=True).wait(timeout=60)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    begin = time.monotonic()
    save = checkpointer.save(2, state, lazy=True)
    with checkpointer.lock():
        state["a"].zero_()
    took = time.monotonic() - begin
    assert not torch.cuda.current_stream().query(), "the computation is over: the test shows nothing"
    assert took < 0.3
    save.wait(timeout=60)
    assert checkpointer.restore(state) == 2
    assert bool((state["a"] == 1).all())


def test_what_nobody_guards_is_as_it_was_at_the_call(open_run: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = open_run()
    for step, most in ((1, limits.CLONE_BYTES), (2, 1000)):
        monkeypatch.setattr(limits, "CLONE_BYTES", most)
        state = {"a": torch.ones(20 << 20, device="cuda")}
        save = checkpointer.save(step, state)
        state["a"].zero_()
        save.wait(timeout=60)
        assert checkpointer.restore(state) == step
        assert bool((state["a"] == 1).all())


def test_an_optimizer_on_the_gpu_trains_on(open_run: Opener) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(512, 4096), torch.nn.BatchNorm1d(4096), torch.nn.Linear(4096, 512)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    checkpointer = open_run()
    checkpointer.guard(optimizer)
    kept, saves = {}, []
    for step in range(1, 21):
        model(torch.randn(64, 512, device="cuda")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        kept[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        saves.append(checkpointer.save(step, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    for save in saves:
        save.wait(timeout=60)
    layout = checkpointer._layouts.last
    assert layout is not None
    assert {layout.leaves[index].name: layout.leaves[index].eager for index in layout.streamed}["model.0.weight"] is False
    for step in (20, 19):
        assert checkpointer.restore({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, step) == step
        assert_same(on_cpu(model.state_dict()), on_cpu(kept[step]))


def test_the_ring_is_pinned(open_run: Opener) -> None:
    checkpointer = open_run()
    checkpointer.save(1, {"a": torch.ones(1000, device="cuda")}).wait(timeout=60)
    ring = checkpointer._streams._ring
    assert ring is not None
    assert all(slot.lease.pinned and slot.view.is_pinned() for slot in ring.slots)


def test_a_daemon_that_dies_in_mid_stream_costs_that_save(big: Daemon) -> None:
    state = {f"layer.{index}": torch.randn(16 << 20, device="cuda") for index in range(16)}
    with big.open() as checkpointer:
        checkpointer.save(1, state, lazy=True).wait(timeout=60)
        with big.paused("local"):
            save = checkpointer.save(2, state, lazy=True)
            time.sleep(0.2)
            big.stop(9)
            with checkpointer.lock():
                for tensor in state.values():
                    tensor.add_(1)
        failure = save.committed.exception(30)
        assert isinstance(failure, cairn.CheckpointFailed)
        big.start()
        checkpointer._link.wait_for_session(20)
        checkpointer.save(3, state, lazy=True).wait(timeout=60)
        assert checkpointer.restore(state) == 3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_tensors_of_several_gpus_share_a_save(open_run: Opener) -> None:
    state = {f"{index}": torch.randn(5 << 20, device=f"cuda:{index % 2}") for index in range(6)}
    checkpointer = open_run()
    save = checkpointer.save(1, state, lazy=True)
    before = on_cpu(state)
    with checkpointer.lock():
        for tensor in state.values():
            tensor.zero_()
    save.wait(timeout=60)
    assert checkpointer.restore(state) == 1
    assert_same(on_cpu(state), before)
