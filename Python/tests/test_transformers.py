"""Hugging Face's Trainer with CairnCallback, on a tiny model with dropout: what is resumed is bit by bit what would have been."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from real_daemon import Daemon, free_port, trainer

transformers = pytest.importorskip("transformers", reason="transformers is not installed (scripts/requirements-frameworks.txt)")
pytest.importorskip("accelerate", reason="accelerate is not installed (scripts/requirements-frameworks.txt)")

from cairn.transformers import CairnCallback  # noqa: E402

pytestmark = [pytest.mark.daemon, pytest.mark.seconds(170), pytest.mark.filterwarnings("ignore:.*pin_memory.*")]


class Texts(torch.utils.data.Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.tokens = torch.randint(0, 50, (count, 12), generator=torch.Generator().manual_seed(count))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class Dies(Exception):
    pass


class DieAt(transformers.TrainerCallback):  # type: ignore[name-defined,misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == self.step:
            raise Dies


def trainer_of(folder: Path, *, dies_at: int | None = None, **arguments: Any) -> Any:
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    values = {
        "use_cpu": True, "max_steps": 10, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "save_steps": 2,
        "eval_steps": 2, "eval_strategy": "steps", "logging_steps": 1, "learning_rate": 1e-2, "lr_scheduler_type": "cosine",
        "warmup_steps": 2, "report_to": [], "disable_tqdm": True, "save_total_limit": 1, "optim": "adamw_torch_fused",
        "dataloader_pin_memory": False,
    }  # fmt: skip
    made = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config),
        args=transformers.TrainingArguments(str(folder), **values | arguments),
        train_dataset=Texts(24),
        eval_dataset=Texts(4),
        callbacks=[] if dies_at is None else [DieAt(dies_at)],
    )
    return made


def outcome(trained: Any) -> tuple[list[torch.Tensor], list[Any]]:
    """Weights, and what was logged, without clocks."""
    weights = [tensor.clone() for tensor in trained.model.state_dict().values()]
    clocks = ("runtime", "per_second", "train_loss", "total_flos")
    logged = [{key: value for key, value in entry.items() if not key.endswith(clocks)} for entry in trained.state.log_history]
    return weights, [entry for entry in logged if len(entry) > 2]


@pytest.mark.parametrize("dies_at", [5, 7])
def test_a_resumed_training_is_bit_exact(shared: Daemon, tmp_path: Path, dies_at: int) -> None:
    """Of 10 steps 6 are an epoch: killed within the first one and within the second one."""
    straight = trainer_of(tmp_path / "straight")
    straight.train()
    run = f"trainer-{dies_at}"
    first = trainer_of(tmp_path / "first", dies_at=dies_at)
    callback = CairnCallback(first, run, socket=shared.socket)
    with pytest.raises(Dies):
        first.train(resume_from_checkpoint=True)
    layout = callback.checkpointer._layouts.last
    assert layout is not None
    lazy = {layout.leaves[index].name for index in layout.lazy_tensors}
    assert {"model.transformer.wte.weight", "optimizer.state.0.exp_avg"} <= lazy
    callback.checkpointer.close()

    second = trainer_of(tmp_path / "second")
    callback = CairnCallback(second, run, socket=shared.socket)
    second.train(resume_from_checkpoint=True)
    assert callback.checkpointer.latest_step() == 10
    callback.checkpointer.close()
    weights, logged = outcome(second)
    expected, told = outcome(straight)
    assert all(torch.equal(left, right) for left, right in zip(weights, expected, strict=True))
    assert logged == told
    assert second.model.lm_head.weight is second.model.transformer.wte.weight
    assert not list((tmp_path / "second").glob("checkpoint-*"))
    assert not list((tmp_path / "first").glob("checkpoint-*"))


def test_the_best_model_is_loaded_at_the_end_and_the_trainers_own_checkpoints_still_are(
    shared: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"save_total_limit": None, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "learning_rate": 0.3, "max_steps": 6}
    stock = trainer_of(tmp_path / "stock", **arguments)
    stock.train()
    ours = trainer_of(tmp_path / "ours", **arguments)
    callback = CairnCallback(ours, "best", socket=shared.socket)
    with caplog.at_level(logging.WARNING, "cairn"):
        ours.train()
    assert ours.state.best_global_step == stock.state.best_global_step < 6
    for left, right in zip(outcome(ours)[0], outcome(stock)[0], strict=True):
        assert torch.equal(left, right)
    pinned = [entry["step"] for entry in callback.checkpointer.steps() if entry["pinned"]]
    assert pinned == [ours.state.best_global_step]
    assert not [record for record in caplog.records if record.name == "cairn"]
    callback.checkpointer.close()

    from_stock = trainer_of(tmp_path / "more", max_steps=8, learning_rate=0.3)
    callback = CairnCallback(from_stock, "more", socket=shared.socket)
    from_stock.train(resume_from_checkpoint=str(tmp_path / "stock" / "checkpoint-6"))
    assert from_stock.state.global_step == 8
    assert callback.checkpointer.all_steps() == [8]
    callback.checkpointer.close()


TWO = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_transformers import trainer_of, outcome, CairnCallback
straight = trainer_of(Path(sys.argv[2]) / "s", max_steps=4)
straight.train()
first = trainer_of(Path(sys.argv[2]) / "f", max_steps=4, save_steps=3, save_strategy="steps")
callback = CairnCallback(first, "two", socket=sys.argv[3])
first.train(resume_from_checkpoint=True)
written = callback.checkpointer._last.bytes
assert callback.checkpointer.all_steps() == [3, 4]
print("BYTES", written, sum(parameter.nbytes for parameter in first.model.parameters()))
second = trainer_of(Path(sys.argv[2]) / "g", max_steps=4)
callback.checkpointer.close()
callback = CairnCallback(second, "two", socket=sys.argv[3])
second.train(resume_from_checkpoint=True)  # nothing is left to train
callback.checkpointer.close()
for left, right in zip(outcome(second)[0], outcome(straight)[0], strict=True):
    assert torch.equal(left, right)
"""


def test_two_ranks_write_the_model_once(shared: Daemon, tmp_path: Path) -> None:
    port = free_port()
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        trainer(TWO, str(Path(__file__).parent), str(tmp_path), shared.socket, environment=known | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=150)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    numbers = [[int(word) for word in text.partition("BYTES ")[2].splitlines()[0].split()] for text in told]
    written, model = sum(number[0] for number in numbers), numbers[0][1]
    assert 3 * model < written < 3 * model + 200_000  # weights and two moments, and each rank's values
    assert os.listdir(tmp_path / "f") == [] or not list((tmp_path / "f").glob("checkpoint-*"))
