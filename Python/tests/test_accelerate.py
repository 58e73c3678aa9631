"""accelerate's prepared models, optimizers, schedulers, and what was registered, beside its own save_state and load_state."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from real_daemon import Daemon
from states import assert_same

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed (scripts/requirements-frameworks.txt)")

from cairn.accelerate import CairnState  # noqa: E402

pytestmark = pytest.mark.daemon


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Accelerators share what the first one found out."""
    yield
    accelerate.state.AcceleratorState._reset_state(True)


class Seen:
    """What a loop registers beside."""

    def __init__(self) -> None:
        self.batches = 0

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


class Training:
    def __init__(self) -> None:
        torch.manual_seed(4)
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 8))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(model, optimizer, schedule)
        self.seen = Seen()
        self.accelerator.register_for_checkpointing(self.seen)

    def train(self, batches: int) -> None:
        while self.seen.batches < batches:
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(self.model(torch.randn(4, 8)).square().mean())
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
            self.seen.batches += 1

    def state(self) -> list[Any]:
        parts = [self.model, self.optimizer, self.schedule, self.seen]
        return [part.state_dict() for part in parts] + [torch.get_rng_state(), self.accelerator.step]


def test_a_resumed_loop_is_bit_exact_as_with_accelerates_own(shared: Daemon, tmp_path: Path) -> None:
    run = f"run-{secrets.token_hex(4)}"
    first = Training()
    first.train(6)
    first.accelerator.save_state(str(tmp_path / "stock"))
    ours = CairnState(first.accelerator, run, socket=shared.socket)
    ours.save_state(6)
    layout = ours.checkpointer._layouts.last
    assert layout is not None
    lazy = {layout.leaves[index].name for index in layout.lazy_tensors}
    assert {"models.0.0.weight", "optimizers.0.state.0.exp_avg"} <= lazy
    assert "models.0.1.running_mean" not in lazy
    first.train(12)
    ours.close()
    for how in ("ours", "stock"):
        second = Training()
        if how == "ours":
            again = CairnState(second.accelerator, run, socket=shared.socket)
            assert again.load_state() == 6
        else:
            second.accelerator.load_state(str(tmp_path / "stock"))
        second.train(12)
        assert_same(second.state(), first.state())
    assert again.save_state().step == 7
    again.close()


def test_what_cannot_be_saved_is_refused(shared: Daemon) -> None:
    training = Training()
    ours = CairnState(training.accelerator, f"run-{secrets.token_hex(4)}", socket=shared.socket)
    assert ours.load_state() is None
    loader = training.accelerator.prepare_data_loader(torch.utils.data.DataLoader([1, 2]))
    loader.use_stateful_dataloader = True
    with pytest.raises(ValueError, match="register_for_checkpointing"):
        ours.save_state(1)
    training.accelerator.state.distributed_type = accelerate.utils.DistributedType.DEEPSPEED
    with pytest.raises(ValueError, match="DEEPSPEED"):
        CairnState(training.accelerator, "run", socket=shared.socket)
    ours.close()
