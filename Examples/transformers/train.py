"""Trains a small GPT-2 with the Trainer and saves every second step through Cairn; started again, it goes on bit by bit."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from cairn.transformers import CairnCallback

WORDS = 64


class Counting(torch.utils.data.Dataset[Any]):
    """Texts that count up from somewhere, with one wrong word in eight."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        words = (torch.arange(16) + index) % WORDS
        noise = torch.rand(16, generator=generator) < 1 / 8
        words = torch.where(noise, torch.randint(0, WORDS, (16,), generator=generator), words)
        return {"input_ids": words, "labels": words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="gpt2", help="the run's name (default: gpt2)")
    parser.add_argument("--steps", type=int, default=8, help="train up to this step (default: 8)")
    options = parser.parse_args()

    torch.manual_seed(17)
    config = GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    arguments = TrainingArguments(
        output_dir=f"{options.run}-trainer",
        max_steps=options.steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_steps=2,
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
    )
    trainer = Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=Counting())
    CairnCallback(trainer, options.run)  # with the import, the only lines for Cairn
    trainer.train(resume_from_checkpoint=True)  # the newest whole step; a new run begins anew
    weights = b"".join(tensor.numpy().tobytes() for tensor in trainer.model.state_dict().values())
    print(f"finished at step {trainer.state.global_step}, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
