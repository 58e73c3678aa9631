"""A training loop with Hugging Face accelerate that saves every step through Cairn; started again, it goes on bit by bit."""

from __future__ import annotations

import argparse
import hashlib

import torch
from accelerate import Accelerator

from cairn.accelerate import CairnState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="rolling", help="the run's name (default: rolling)")
    parser.add_argument("--steps", type=int, default=8, help="train up to this step (default: 8)")
    options = parser.parse_args()

    torch.manual_seed(17)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    layers = [torch.nn.Linear(32, 128), torch.nn.BatchNorm1d(128), torch.nn.Dropout(0.1), torch.nn.Linear(128, 32)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)

    state = CairnState(accelerator, options.run)  # for Cairn
    step = state.load_state() or 0  # was: accelerator.load_state(folder)
    while step < options.steps:
        for _ in range(2):
            with accelerator.accumulate(model):
                rows = torch.randn(16, 32)
                loss = torch.nn.functional.mse_loss(model(rows), rows.roll(1, dims=1))
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        step += 1
        state.save_state(step)  # was: accelerator.save_state(folder)
        accelerator.print(f"step {step}: loss {loss.item():.4f}", flush=True)
    state.close()
    weights = b"".join(tensor.numpy().tobytes() for tensor in accelerator.unwrap_model(model).state_dict().values())
    accelerator.print(f"finished at step {step}, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
