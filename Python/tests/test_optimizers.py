"""Each way in which an optimizer may step waits for the lazy bytes of a save whose staging stands still (see test_fence.py).

A step that did not wait would be over within the half second in which the test looks, and the weights would have changed.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon

pytestmark = [pytest.mark.daemon, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

BIG = 40 << 20
"""Elements, of 4 bytes: more than the pool."""
LOOK_SECONDS = 0.5

Step = Callable[[], object]
Made = tuple[Any, Step]
"""What is guarded (None: whatever steps), and what takes one step, by which each weight becomes less by 1."""


class Foreign:
    """An optimizer that torch knows nothing of."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.param_groups = [{"params": [parameter]}]

    def step(self) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].sub_(1.0)


class Unhooked(torch.optim.Optimizer):
    """One of torch's class that never called its __init__, so that torch has put no hooks around its step."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.param_groups, self.state = [{"params": [parameter]}], {}

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].sub_(1.0)


def sgd(parameter: torch.nn.Parameter, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([parameter], lr=1.0, **options)


def backward(parameter: torch.nn.Parameter) -> None:
    parameter.sum().backward()


def plain(parameter: torch.nn.Parameter) -> Made:
    optimizer = sgd(parameter)
    return optimizer, lambda: (backward(parameter), optimizer.step(), optimizer.zero_grad())


def fused(parameter: torch.nn.Parameter) -> Made:
    optimizer = sgd(parameter, fused=True)
    return optimizer, lambda: (backward(parameter), optimizer.step(), optimizer.zero_grad())


def whatever_steps(parameter: torch.nn.Parameter) -> Made:
    return None, plain(parameter)[1]


def in_backward(parameter: torch.nn.Parameter) -> Made:
    optimizer = sgd(parameter)

    def hook(_: torch.Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    parameter.register_post_accumulate_grad_hook(hook)
    return optimizer, lambda: backward(parameter)


def applied_in_backward(parameter: torch.nn.Parameter) -> Made:
    from torch.distributed.optim import _apply_optimizer_in_backward

    _apply_optimizer_in_backward(torch.optim.SGD, [parameter], {"lr": 1.0})
    return parameter._in_backward_optimizers, lambda: backward(parameter)  # type: ignore[attr-defined]


def one_of_a_list(parameter: torch.nn.Parameter) -> Made:
    optimizer, step = plain(parameter)
    return [sgd(torch.nn.Parameter(torch.zeros(2))), {"model": optimizer}], step


def accumulated(parameter: torch.nn.Parameter) -> Made:
    optimizer = sgd(parameter)

    def step() -> None:
        for _ in range(4):
            (parameter.sum() / 4).backward()
        optimizer.step()
        optimizer.zero_grad()

    return optimizer, step


def scaled(parameter: torch.nn.Parameter) -> Made:
    optimizer, scaler = sgd(parameter), torch.amp.GradScaler("cpu", init_scale=8.0)

    def step() -> None:
        scaler.scale(parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return optimizer, step


def compiled(parameter: torch.nn.Parameter) -> Made:
    optimizer = sgd(parameter)

    def step() -> None:
        optimizer.step()

    run = torch.compile(step, backend=os.environ.get("CAIRN_TEST_COMPILER", "aot_eager"))  # inductor takes 40 s
    return optimizer, lambda: (backward(parameter), run(), optimizer.zero_grad())


def zero_redundancy(parameter: torch.nn.Parameter) -> Made:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    optimizer = ZeroRedundancyOptimizer([parameter], torch.optim.SGD, lr=1.0, momentum=1e-9)
    return optimizer, lambda: (backward(parameter), optimizer.step(), optimizer.zero_grad())


def accelerated(parameter: torch.nn.Parameter) -> Made:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed (scripts/requirements-frameworks.txt)")
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = accelerator.prepare_optimizer(sgd(parameter))
    return optimizer, lambda: (accelerator.backward(parameter.sum()), optimizer.step(), optimizer.zero_grad())


def foreign(parameter: torch.nn.Parameter) -> Made:
    optimizer = Foreign(parameter)
    return optimizer, lambda: optimizer.step()


def unhooked(parameter: torch.nn.Parameter) -> Made:
    optimizer = Unhooked(parameter)
    return optimizer, lambda: optimizer.step()


KINDS = [
    plain, fused, whatever_steps, in_backward, applied_in_backward, one_of_a_list, accumulated, scaled, compiled, zero_redundancy,
    accelerated, foreign, unhooked,
]  # fmt: skip


@pytest.fixture(scope="module")
def big() -> torch.Tensor:
    return torch.ones(BIG)


@pytest.fixture
def group(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("make", KINDS, ids=lambda kind: kind.__name__)
def test_the_step_waits_for_lazy_bytes(cluster: Cluster, big: torch.Tensor, make: Callable[[torch.nn.Parameter], Made]) -> None:
    daemon = cluster.daemon(pool="128MiB", limits={"fence": "20s"})
    big.fill_(2)
    parameter = torch.nn.Parameter(big)
    optimizer, step = make(parameter)
    with daemon.open() as checkpointer:
        checkpointer.guard(optimizer)
        step()  # compiled, warm, and its state made; what steps is known from here on
        assert float(parameter.detach()[0]) == 1
        if make is zero_redundancy:
            checkpointer.guard(optimizer)
            moment = optimizer.optim.state[parameter]["momentum_buffer"]
            assert not checkpointer._guard.owns(moment.data_ptr(), moment.nbytes)
        thread = threading.Thread(target=step, daemon=True)
        with daemon.paused("local") as pause:
            save = checkpointer.save(1, {"p": parameter, "buffer": torch.zeros(2)})
            assert not save.free
            if make is zero_redundancy:
                assert checkpointer._guard.owns(moment.data_ptr(), moment.nbytes)
            thread.start()
            thread.join(LOOK_SECONDS)
            assert thread.is_alive()
            assert not save.free
            assert bool((parameter.detach()[:: 1 << 20] == 1).all())
            pause.resume()
            thread.join(30)
        assert save.free
        assert bool((parameter == 0).all())
        save.wait(timeout=30)
    with daemon.open() as checkpointer:
        into: dict[str, Any] = {}
        assert checkpointer.restore(into) == 1
        assert bool((into["p"] == 1).all())


def test_zero_that_steps_inside_ddp_is_refused(shared: Daemon, group: None) -> None:
    """Nothing of torch's tells of such a step."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    optimizer = ZeroRedundancyOptimizer(
        [torch.nn.Parameter(torch.zeros(2))], torch.optim.SGD, lr=1.0, overlap_with_ddp=True
    )  # fmt: skip
    with shared.open("zero") as checkpointer, pytest.raises(TypeError, match="overlap_with_ddp=False"):
        checkpointer.guard(optimizer)


@pytest.mark.parametrize("fences", ["never", "step", "lock", "restore", "nothing lazy"])
def test_a_save_that_nothing_fenced_before_the_next_one_warns_once(
    shared: Daemon, caplog: pytest.LogCaptureFixture, fences: str
) -> None:
    parameter = torch.nn.Parameter(torch.ones(8))
    optimizer = sgd(parameter)
    with shared.open(f"run-{secrets.token_hex(4)}") as checkpointer, caplog.at_level(logging.WARNING, "cairn"):
        checkpointer.guard(optimizer)
        for number in range(4):
            checkpointer.save(number, {"p": parameter if fences != "nothing lazy" else torch.ones(2)}).wait(timeout=20)
            if fences == "step":
                optimizer.step()
            elif fences == "lock":
                with checkpointer.lock():
                    parameter.data.zero_()
            elif fences == "restore":
                checkpointer.restore({"p": parameter})
            else:
                parameter.data.zero_()  # as an optimizer would that nobody has guarded
    warned = [record.getMessage() for record in caplog.records if "nothing fenced" in record.getMessage()]
    assert len(warned) == (fences == "never")
    assert fences != "never" or "step 0" in warned[0]
