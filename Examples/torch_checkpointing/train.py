"""A training loop for torch-checkpointing's manager, with the import changed; started again, it goes on bit by bit."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

import cairn
from cairn.torch.checkpointing import CheckpointManager  # was: from torch_checkpointing import CheckpointManager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="rolling", help="the folder that its checkpoints' ids name (default: rolling)")
    parser.add_argument("--steps", type=int, default=8, help="train up to this step (default: 8)")
    options = parser.parse_args()

    torch.manual_seed(17)
    model = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.BatchNorm1d(128), torch.nn.ReLU(), torch.nn.Linear(128, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    manager = CheckpointManager()
    folder = Path(options.run)

    step = manager.latest_step(folder) or 0  # Cairn's own: which step is whole; a folder of files tells it by its names
    if step:
        into = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": None}
        state = manager.load(str(folder / f"step_{step}"), into=into)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        cairn.set_rng_state(state["rng"])
    while step < options.steps:
        rows = torch.randn(16, 32)
        loss = torch.nn.functional.mse_loss(model(rows), rows.roll(1, dims=1))
        optimizer.zero_grad()
        loss.backward()
        with manager.lock():
            optimizer.step()
        step += 1
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": cairn.rng_state()}
        manager.save(str(folder / f"step_{step}"), state)
        print(f"step {step}: loss {loss.item():.4f}", flush=True)
    manager.close()
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    print(f"finished at step {step}, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
