"""The manager in torch-checkpointing's place: one training, with that package (saving synchronously, as it must on a CPU) and with ours."""

from __future__ import annotations

import importlib.util
import secrets
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon
from states import assert_same

import cairn
from cairn.torch.checkpointing import AsyncCheckpointSaverConfig, CheckpointManager, ItemSpec, SyncCheckpointSaverConfig

pytestmark = pytest.mark.daemon


class Training:
    def __init__(self) -> None:
        torch.manual_seed(2)
        self.model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 16))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.step = 0

    def train(self, manager: Any, steps: int) -> None:
        while self.step < steps:
            torch.manual_seed(self.step)
            self.optimizer.zero_grad()
            self.model(torch.randn(8, 16)).square().mean().backward()
            with manager.lock():
                self.optimizer.step()
            self.step += 1

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def resume(self, manager: Any, where: str) -> None:
        self.train(manager, 1)  # for the package's sake, that takes only keys which the state has: the optimizer's must be there
        loaded = manager.load(where, into=self.state(), strict=True)
        self.model.load_state_dict(loaded["model"])
        self.optimizer.load_state_dict(loaded["optimizer"])
        self.step = loaded["step"]


def ours(daemon: Daemon, **config: Any) -> CheckpointManager:
    return CheckpointManager(CheckpointManager.Config(options={"socket": daemon.socket}, **config))


@pytest.mark.parametrize("how", ["package", "sync", "async"])
def test_its_users_change_an_import(shared: Daemon, tmp_path: Path, how: str) -> None:
    """The package's own run shows that the training, and what is asked of the manager, is as its users have it."""
    if how == "package":
        if importlib.util.find_spec("torch_checkpointing") is None:
            pytest.skip("torch-checkpointing is not installed (scripts/requirements-frameworks.txt)")
        import torch_checkpointing
        from torch_checkpointing.config import SyncCheckpointSaverConfig as TheirSync
        from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

        kind: Any = torch_checkpointing.CheckpointManager

        def make() -> Any:
            return kind(kind.Config(save=TheirSync(), storage_config=LocalFileSystemStorageConfig(use_direct_io=False)))

    else:

        def make() -> Any:
            return ours(shared, save=SyncCheckpointSaverConfig() if how == "sync" else AsyncCheckpointSaverConfig())

    folder = f"{tmp_path}/{secrets.token_hex(4)}"
    manager, first = make(), Training()
    first.train(manager, 3)
    before = manager.save(f"{folder}/step_3", first.state())
    first.train(manager, 4)  # what was saved must not change
    again = manager.save(f"{folder}/step_4", first.state())
    assert [isinstance(future, Future) for future in (before, again)] == [how == "async"] * 2
    manager.close()
    manager.close()
    with pytest.raises(RuntimeError):
        manager.save(f"{folder}/step_5", first.state())
    expected = Training()
    expected.train(ours(shared), 6)
    for step in (3, 4):
        manager, second = make(), Training()
        second.resume(manager, f"{folder}/step_{step}")
        assert second.step == step
        second.train(manager, 6)
        assert_same(second.state(), expected.state())
        manager.close()
    if how != "package":
        assert not Path(folder).exists()
        assert ours(shared).latest_step(folder) == 4


def test_what_steps_is_lazy_and_the_lock_waits(cluster: Cluster) -> None:
    """BatchNorm's statistics, which change in forward, are not left to lock()."""
    daemon = cluster.daemon(pool="128MiB", limits={"fence": "20s"})
    weight, seen = torch.nn.Parameter(torch.ones(40 << 20)), torch.zeros(4)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    manager = ours(daemon)
    assert manager.save("/ckpt/1", {"model": {"w": weight, "seen": seen}}) is not None
    weight.grad = torch.ones_like(weight)
    optimizer.step()  # guarded from here on
    with daemon.paused("local") as pause:
        future = manager.save("/ckpt/step-2", {"model": {"w": weight, "seen": seen}})
        save = next(iter(manager._open.values()))._last
        assert save is not None
        assert not save.free
        seen.fill_(9)
        pause.resume_after(0.2)
        with manager.lock():
            assert save.free
            weight.data.fill_(7)
    assert future is not None
    assert future.result(30).step == 2
    loaded = manager.load("/ckpt/step-2", into={"model": None})
    assert not loaded["model"]["w"].any()
    assert not loaded["model"]["seen"].any()
    manager.close()


def test_only_the_items_that_were_named_are_loaded(shared: Daemon, tmp_path: Path) -> None:
    manager = ours(shared, items={"model": ItemSpec(resharder=object()), "note": ItemSpec(required=False)})
    saved = {"model": {"w": torch.ones(3)}, "optimizer": {"m": torch.full((2,), 5.0)}, "note": "n"}
    manager.save(str(tmp_path / "epoch1_step_7"), saved)
    manager.close()
    manager = ours(shared, items={"model": ItemSpec(), "note": ItemSpec(required=False)})
    assert_same(dict(manager.load(tmp_path / "epoch1_step_7")), {"model": saved["model"], "note": "n"})
    target = torch.zeros(3)
    loaded = manager.load(tmp_path / "epoch1_step_7", into={"model": {"w": target}})
    assert set(loaded) == {"model"}
    assert target.tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match=r"'model\.other' was not saved"):
        manager.load(tmp_path / "epoch1_step_7", into={"model": {"w": target, "other": target}}, strict=True)
    with pytest.raises(FileNotFoundError, match="no whole step 8"):
        manager.load(tmp_path / "epoch1_step_8", into={"model": None})
    with pytest.raises(KeyError, match="model"):
        manager.save("/a/step_1", {"note": "n"})
    with pytest.raises(ValueError, match="does not end in a step's number"):
        manager.save("/a/best", {"model": {}})
    manager.close()
    with pytest.raises(KeyError, match="optimizer"):
        ours(shared, items={"model": ItemSpec()}, default=None).save("/a/step_1", {"model": {}, "optimizer": {}})
    with pytest.raises(ValueError, match="storage_config"):
        ours(shared, storage_config=object())
    assert isinstance(cairn.Only(a=1), dict)
