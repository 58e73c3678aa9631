"""torch-checkpointing (PyTorch's separate package), asynchronous."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch_checkpointing as tc
from machine import sync_tree
from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig
from workload import State

from .base import Background, Pending, Subject


def sync_written(arguments: Any) -> None:
    """It never syncs: this does, in its process, before it gives the folder its name."""
    sync_tree(Path(arguments.path))


class TorchCheckpointing(Subject):
    name = "torch-checkpointing"
    settings = (
        "asynchronous staging into shared memory, two writing threads, no O_DIRECT (its writes are not aligned: EINVAL on ext4), "
        "fsync in pre_finalize_callback, as it never syncs; fence: manager.lock()"
    )

    def __init__(self, state: State, folder: Path) -> None:
        super().__init__(state, folder)
        logging.getLogger("torch_checkpointing").setLevel(logging.ERROR)
        config = tc.CheckpointManager.Config(
            save=tc.AsyncCheckpointSaverConfig(
                staging_config=tc.CheckpointStagerConfig(
                    use_pinned_memory=False, use_shared_memory=True, use_async_staging=True, use_non_blocking_copy=False
                ),
                writer_config=tc.CheckpointWriterConfig(file_write_max_threads=2),
            ),
            storage_config=LocalFileSystemStorageConfig(use_direct_io=False),
            pre_finalize_callback=sync_written,
        )
        self._manager = config.build()

    def begin(self) -> Pending:
        written: Any = self._manager.save(str(self.target), self.state.tree)
        pending = Locked(self.target, None, written)
        pending.manager = self._manager
        return pending

    def load(self) -> None:
        self._manager.load(str(self.target), into=self.state.tree)

    def close(self) -> None:
        self._manager.close()
        super().close()


class Locked(Background):
    manager: Any = None

    def fence(self) -> None:
        with self.manager.lock():
            pass
