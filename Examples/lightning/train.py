"""Trains a small network with PyTorch Lightning and saves every second step through Cairn; started again, it goes on bit by bit."""

from __future__ import annotations

import argparse
import hashlib
import logging

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from cairn.lightning import CairnCheckpointIO


class Rolling(lightning.LightningModule):
    """Learns to move a row of numbers by one place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.Dropout(0.1), torch.nn.Linear(128, 32))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        # Lightning does not save the state of random generators: this model draws its dropout from the step's number.
        torch.manual_seed(self.global_step)
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[0].roll(1, dims=1))
        print(f"step {self.global_step + 1}: loss {loss.item():.4f}", flush=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="rolling", help="the run's name (default: rolling)")
    parser.add_argument("--steps", type=int, default=8, help="train up to this step (default: 8)")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    torch.manual_seed(17)
    model = Rolling()
    rows = torch.randn(64, 32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=64)
    io = CairnCheckpointIO(options.run)  # for Cairn
    trainer = lightning.Trainer(
        max_steps=options.steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(f"{options.run}-lightning", every_n_train_steps=2, save_top_k=-1)],
        plugins=[io],  # for Cairn
    )
    trainer.fit(model, loader, ckpt_path=io.latest())  # for Cairn: None in a new run
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    print(f"finished at step {trainer.global_step}, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
