"""torch.distributed.checkpoint: save, and async_save in a thread and in a process."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType
from workload import State

from .base import Background, Pending, Subject, Synchronous


def writer(target: Path) -> Any:
    """Its files are synced (sync_files), by two threads, which is never slower here than one."""
    return dcp.FileSystemWriter(target, single_file_per_rank=True, sync_files=True, thread_count=2)


class DCPSave(Synchronous):
    name = "dcp.save"
    settings = "FileSystemWriter(thread_count=2, sync_files=True), no_dist"

    def write(self) -> None:
        dcp.save(self.state.tree, storage_writer=writer(self.target), no_dist=True)

    def load(self) -> None:
        dcp.load(self.state.tree, storage_reader=dcp.FileSystemReader(self.target), no_dist=True)


class DCPAsync(Subject):
    """One stager is kept: a new one at each save would allocate its copy of the state anew. Its fence is staging_completion."""

    kind = AsyncCheckpointerType.THREAD
    shared = False
    name = "dcp.async_save, thread"
    settings = "one DefaultStager, asynchronous, kept over all saves (no pinned memory without a GPU); writer as dcp.save's"

    def __init__(self, state: State, folder: Path) -> None:
        super().__init__(state, folder)
        options = StagingOptions(
            use_pinned_memory=False, use_shared_memory=self.shared, use_async_staging=True, use_non_blocking_copy=False
        )
        self._stager = DefaultStager(options)

    def begin(self) -> Pending:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer: Any = dcp.async_save(
                self.state.tree, storage_writer=writer(self.target), async_stager=self._stager, async_checkpointer_type=self.kind,
                no_dist=self.kind is AsyncCheckpointerType.THREAD,
            )  # fmt: skip
        return Background(self.target, answer.staging_completion, answer.upload_completion)

    def load(self) -> None:
        dcp.load(self.state.tree, storage_reader=dcp.FileSystemReader(self.target), no_dist=True)

    def close(self) -> None:
        self._stager.close()
        super().close()


class DCPProcess(DCPAsync):
    kind = AsyncCheckpointerType.PROCESS
    shared = True
    name = "dcp.async_save, process"
    settings = "as in a thread, staged into shared memory, written by a process"

    def begin(self) -> Pending:
        if self.count > 1:
            return super().begin()
        # The process inherits standard error, where it would log every save.
        kept = os.dup(2)
        with open(self.folder.parent / "dcp-process.log", "ab") as log:
            os.dup2(log.fileno(), 2)
        try:
            pending = super().begin()
            pending.finish()
            return pending
        finally:
            os.dup2(kept, 2)
            os.close(kept)
