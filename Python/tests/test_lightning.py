"""PyTorch Lightning with CairnCheckpointIO: its own ModelCheckpoint, callbacks and resuming, in one process and in two (DDP)."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import torch
from real_daemon import Daemon, free_port, trainer, until
from states import assert_same

lightning = pytest.importorskip("lightning", reason="lightning is not installed (scripts/requirements-frameworks.txt)")

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint  # noqa: E402

from cairn.lightning import CairnCheckpointIO  # noqa: E402

pytestmark = [pytest.mark.daemon, pytest.mark.seconds(170), pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("bound")]


class Dies(Exception):
    pass


class Model(lightning.LightningModule):  # type: ignore[name-defined,misc]
    def __init__(self, width: int = 16, dies_at: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 8))
        self.dies_at = dies_at

    def training_step(self, batch: Any) -> torch.Tensor:
        if self.global_step == self.dies_at:
            raise Dies
        loss = (self.layers(batch[0]) - batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}]


def loader() -> Any:
    rows = torch.randn(48, 8, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=4)


def trainer_of(folder: Path, plugins: list[Any], **options: Any) -> Any:
    torch.manual_seed(5)
    checkpoints = ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=2, monitor="step", mode="max", save_last=True)
    values = {"max_steps": 20, "max_epochs": -1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return lightning.Trainer(
        **values | options,
        enable_model_summary=False, plugins=plugins, callbacks=[checkpoints, EarlyStopping("loss", patience=99)], log_every_n_steps=1,
    )  # fmt: skip


def test_a_resumed_training_is_bit_exact_as_lightnings_own(shared: Daemon, tmp_path: Path) -> None:
    """As one that was resumed from Lightning's own file of that step, for Lightning begins the interrupted epoch's data anew; of 20
    steps 12 are an epoch. The files that ModelCheckpoint thinks are checkpoints name steps, and only committed ones."""
    run = f"run-{secrets.token_hex(4)}"
    with pytest.raises(Dies):
        trainer_of(tmp_path / "stock", []).fit(Model(dies_at=15), loader())
    stock = trainer_of(tmp_path / "stock", [])
    expected = Model()
    stock.fit(expected, loader(), ckpt_path=str(next((tmp_path / "stock").glob("*step=14.ckpt"))))

    io = CairnCheckpointIO(run, socket=shared.socket)
    assert io.latest() is None
    with pytest.raises(Dies):
        trainer_of(tmp_path / "ours", [io]).fit(Model(dies_at=15), loader(), ckpt_path=io.latest())
    io.teardown()

    io = CairnCheckpointIO(run, socket=shared.socket)
    assert io.latest() == f"cairn:{run}@14"
    again = trainer_of(tmp_path / "ours", [io])
    model = Model()
    again.fit(model, loader(), ckpt_path=io.latest())
    io.teardown()
    assert_same(model.state_dict(), expected.state_dict())
    assert_same(again.optimizers[0].state_dict(), stock.optimizers[0].state_dict())
    files = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert "last.ckpt" in files
    assert all(path.stat().st_size < 200 for path in (tmp_path / "ours").iterdir())
    assert sum(name.startswith("epoch") for name in files) == 2  # of ours; the first launch's two were removed by save_top_k

    io = CairnCheckpointIO(run, socket=shared.socket)
    for path in ("last", str(tmp_path / "ours" / next(name for name in files if "step=20" in name))):
        later = trainer_of(tmp_path / "ours", [io], max_steps=21)
        model = Model()
        later.fit(model, loader(), ckpt_path=path)
        assert later.global_step == 21
    io.teardown()


def test_what_cannot_be_loaded_says_why(shared: Daemon, tmp_path: Path) -> None:
    io = CairnCheckpointIO(f"run-{secrets.token_hex(4)}", socket=shared.socket)
    (tmp_path / "other.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match="was not written by CairnCheckpointIO"):
        io.load_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="give another CairnCheckpointIO"):
        io.load_checkpoint("cairn:foreign@3")
    with pytest.raises(FileNotFoundError, match="no whole step 3"):
        io.load_checkpoint(f"cairn:{io.run}@3")
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint({"global_step": 1}, tmp_path / "a.ckpt", storage_options={"a": 1})
    io.save_checkpoint({"global_step": 1, "w": torch.ones(3)}, tmp_path / "removed.ckpt")
    io.remove_checkpoint(tmp_path / "removed.ckpt")
    io.save_checkpoint({"global_step": 2, "w": torch.ones(3)}, tmp_path / "kept.ckpt")
    until((tmp_path / "kept.ckpt").exists)
    assert not (tmp_path / "removed.ckpt").exists() or io._names[str(tmp_path / "removed.ckpt")] == -1
    assert io.load_checkpoint(tmp_path / "kept.ckpt")["w"].tolist() == [1, 1, 1]
    io.teardown()


TWO = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_lightning import CairnCheckpointIO, Model, assert_same, loader, trainer_of
folder, run = Path(sys.argv[2]), "two-ranks"
options = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
io = CairnCheckpointIO(run, socket=sys.argv[3])
trainer_of(folder, [io], max_steps=4, **options).fit(Model(), loader(), ckpt_path=io.latest())
io.teardown()
io = CairnCheckpointIO(run, socket=sys.argv[3])
assert io.latest() == "cairn:two-ranks@4"
model, again = Model(), trainer_of(folder, [io], max_steps=6, **options)
again.fit(model, loader(), ckpt_path=io.latest())
io.teardown()
expected = Model()
trainer_of(folder / "stock", [], max_steps=4, **options).fit(Model(), loader())
stock = trainer_of(folder / "stock", [], max_steps=6, **options)
stock.fit(expected, loader(), ckpt_path=str(folder / "stock" / "epoch=0-step=4.ckpt"))
assert_same(model.state_dict(), expected.state_dict())
"""


def test_two_ranks_of_ddp_load_what_the_first_one_saved(shared: Daemon, tmp_path: Path) -> None:
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    known |= {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    ranks = [
        trainer(TWO, str(Path(__file__).parent), str(tmp_path), shared.socket, environment=known | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    for rank in ranks:
        rank.communicate(timeout=150)
    assert [rank.returncode for rank in ranks] == [0, 0]
