"""Real training loops that change things the moment save() has returned: each step holds what there was at the call (I13)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from real_daemon import Opener
from states import assert_same

pytestmark = pytest.mark.daemon

OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.05, max_iter=2),
}


class Trainer:
    """A model with BatchNorm and tied weights, an average of its weights, and a schedule; two batches are accumulated."""

    def __init__(self, optimizer: str) -> None:
        torch.manual_seed(1)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.BatchNorm1d(256), torch.nn.ReLU(), torch.nn.Linear(256, 64), torch.nn.Linear(64, 256)
        )
        self.model.append(torch.nn.Linear(64, 256))
        self.model[5].weight = self.model[4].weight
        self.ema = torch.optim.swa_utils.AveragedModel(self.model, use_buffers=True)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.seen = torch.zeros((), dtype=torch.int64)
        self.grads = torch.zeros(64, 256)

    def loss(self) -> torch.Tensor:
        self.seen += 1
        hidden = self.model[:4](torch.randn(16, 64))
        return (self.model[4](hidden) + self.model[5](hidden)).square().mean()  # type: ignore[no-any-return]

    def train(self) -> None:
        for _ in range(2):
            self.loss().backward()
            self.grads.copy_(self.model[3].weight.grad)

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad(set_to_none=False)
            loss = self.loss()
            loss.backward()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)
        else:
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.ema.update_parameters(self.model)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optim": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "schedule": self.schedule.state_dict(),
            "seen": self.seen,
            "grads": self.grads,
            "rng": torch.get_rng_state(),
        }


def tensors(node: Any) -> Any:
    """Without what is not a tensor, and keys as plain ones: state_dict() has OrderedDicts with metadata."""
    if isinstance(node, dict):
        return {key: tensors(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [tensors(value) for value in node]
    return node


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_is_as_it_was_at_the_call(open_run: Opener, optimizer: str) -> None:
    trainer, checkpointer = Trainer(optimizer), open_run()
    checkpointer.guard(trainer.optimizer)
    kept: dict[int, Any] = {}
    for step in range(8):
        trainer.train()
        state = trainer.state()
        kept[step] = copy.deepcopy(state)
        checkpointer.save(step, state)
        trainer.seen.fill_(-1)  # at once, before any fence
        trainer.grads.fill_(float("nan"))
        trainer.loss()  # running statistics, generator
        for tensor in trainer.ema.state_dict().values():
            tensor.zero_()
    checkpointer.wait_until_finished(timeout=40)
    checkpointer.check_for_errors()
    for step in (0, 1, 2, 7):
        into: dict[str, Any] = {}
        assert checkpointer.restore(into, step) == step
        assert_same(tensors(kept[step]), tensors(into))


def test_a_restored_training_goes_on_as_if_nothing_had_been(open_run: Opener) -> None:
    first, checkpointer = Trainer("adamw fused"), open_run()
    checkpointer.guard(first.optimizer)
    for _ in range(3):
        first.train()
    checkpointer.save(3, first.state() | {"objects": [first.model, first.optimizer, first.ema, first.schedule]})
    checkpointer.wait_until_finished(timeout=20)
    second = Trainer("adamw fused")
    into = {
        "objects": [second.model, second.optimizer, second.ema, second.schedule],
        "rng": torch.zeros_like(torch.get_rng_state()),
    }
    again = open_run()
    again.guard(second.optimizer)
    assert again.restore(into) == 3
    results = []
    for trainer in (first, second):
        torch.set_rng_state(into["rng"])  # type: ignore[arg-type]
        for step in range(4, 7):
            trainer.train()
            if trainer is second:
                again.save(step, trainer.state())
        results.append([copy.deepcopy(trainer.model.state_dict()), trainer.optimizer.state_dict(), trainer.ema.state_dict()])
    assert_same(tensors(results[0]), tensors(results[1]))
    again.check_for_errors()


def test_only_what_a_guarded_optimizer_owns_is_lazy(open_run: Opener) -> None:
    mine, other = (torch.nn.Parameter(torch.ones(1 << 20)) for _ in range(2))
    guarded, unguarded = torch.optim.SGD([mine], lr=1.0), torch.optim.SGD([other], lr=1.0)
    checkpointer = open_run()
    checkpointer.guard(guarded)
    for step in range(3):
        checkpointer.save(step, {"mine": mine, "other": other})
        eager = {shard["name"]: shard.get("eager", True) for shard in checkpointer._layouts.last.shards()}  # type: ignore[union-attr]
        assert eager == {"mine": False, "other": True}
        with torch.no_grad():
            other.fill_(-5.0)
        into: dict[str, Any] = {}
        checkpointer.wait_until_finished(timeout=20)
        checkpointer.restore(into, step)
        assert bool((into["other"] == 1).all())
        with torch.no_grad():
            other.fill_(1.0)
        unguarded.step()


def test_an_average_that_takes_over_a_parameters_memory_is_eager(open_run: Opener) -> None:
    """Swapping weights for an evaluation, as EMA helpers do it: ownership goes with the memory, not with the object."""
    parameter = torch.nn.Parameter(torch.ones(1000))
    average = torch.full((1000,), 2.0)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    checkpointer = open_run()
    checkpointer.guard(optimizer)

    def eager(tensor: torch.Tensor) -> bool:
        checkpointer.save(len(seen), {"w": tensor})
        layout = checkpointer._layouts.last
        assert layout is not None
        seen.append(bool(layout.shards()[0].get("eager", True)))
        return seen[-1]

    seen: list[bool] = []
    memory = parameter.data
    assert not eager(memory)
    parameter.data = average
    assert eager(memory)  # the very same tensor and address, which the optimizer no longer owns
    assert not eager(average)


def test_state_loaded_between_saves_is_saved_from_where_it_is(open_run: Opener) -> None:
    trainer, checkpointer = Trainer("adamw foreach"), open_run()
    checkpointer.guard(trainer.optimizer)
    kept = {}
    for step in range(6):
        trainer.train()
        if step % 2:
            trainer.optimizer.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
            with checkpointer.lock():
                trainer.model.load_state_dict({k: v * 0.5 for k, v in trainer.model.state_dict().items()})
        kept[step] = copy.deepcopy(trainer.state())
        checkpointer.save(step, trainer.state())
    checkpointer.wait_until_finished(timeout=30)
    checkpointer.check_for_errors()
    for step in (2, 3, 4, 5):
        into: dict[str, Any] = {}
        checkpointer.restore(into, step)
        assert_same(tensors(kept[step]), tensors(into))


def test_a_gradient_scalers_skipped_step_still_fences(open_run: Opener) -> None:
    parameter = torch.nn.Parameter(torch.ones(1 << 20))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    checkpointer = open_run()
    checkpointer.guard(optimizer)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale((parameter * (float("inf") if step % 2 else 1.0)).sum()).backward()
        save = checkpointer.save(step, {"p": parameter, "scaler": scaler.state_dict()})
        scaler.step(optimizer)
        assert save.free or step % 2  # a step that is skipped changes nothing and need not wait
        scaler.update()
    checkpointer.wait_until_finished(timeout=20)
    checkpointer.check_for_errors()
    for step, value in ((0, 1.0), (1, 0.0), (2, 0.0), (3, -1.0)):
        into: dict[str, Any] = {}
        checkpointer.restore(into, step)
        assert bool((into["p"] == value).all())
