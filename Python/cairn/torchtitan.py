"""torchtitan: a checkpoint manager beside its own, on a Cairn run. In a configuration's function:

    from cairn.torchtitan import CairnCheckpointManager
    config.checkpoint = CairnCheckpointManager.Config(enable=True, interval=500)

What is saved when, what is loaded, model-only and Hugging Face checkpoints are torchtitan's own CheckpointManager's, whose calls of
DCP for the run's own steps this class turns to the daemon: a save returns once what no optimizer owns is copied, and the next
optimizer step waits for the rest. Old steps are removed by the daemon's retention, so ``keep_latest_k`` must stay 0.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse
from torchtitan.components.checkpointer import MODEL, CheckpointManager
from torchtitan.components.checkpointer.dcp import AsyncMode

from .torch import dcp
from .torch.reader import CairnReader
from .torch.writer import CairnWriter


class CairnCheckpointManager(CheckpointManager):  # type: ignore[misc]
    """See the module. All ranks make it, as torchtitan's trainer does."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):  # type: ignore[misc]
        """torchtitan's own, and the run's name."""

        async_mode: Literal["disabled", "async"] = "async"
        """disabled: a save returns when the step is committed."""

        keep_latest_k: int = 0
        """Which steps stay, the daemon's configuration says (retention)."""

        run: str = ""
        """Default: CAIRN_RUN, else the last name of ``folder``."""

        def __post_init__(self) -> None:
            CheckpointManager.Config.__post_init__(self)
            if self.async_mode not in ("disabled", "async"):
                raise ValueError(f"checkpoint.async_mode is '{self.async_mode}': pinned is the daemon's pool, take 'async'")
            if self.keep_latest_k:
                raise ValueError("checkpoint.keep_latest_k must be 0: which steps stay, the daemon's retention says")

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        if not self.enable:
            return
        self.run = config.run or os.environ.get("CAIRN_RUN") or PurePath(self.folder).name
        self._writer = CairnWriter(self.run)
        for optimizer in parts["optimizers"]:
            self._writer.guard(optimizer)

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future[Any] | AsyncSaveResponse | None:
        """As torchtitan's: to the run, but for a Hugging Face folder, which is written where it says."""
        if to_hf:
            return super().dcp_save(state_dict, checkpoint_id, async_mode, enable_garbage_collection, to_hf)
        if async_mode == AsyncMode.DISABLED:
            dcp.save(state_dict, checkpoint_id=checkpoint_id, storage_writer=self._writer)
            return None
        answer = dcp.async_save(state_dict, checkpoint_id=checkpoint_id, storage_writer=self._writer, process_group=self.pg)
        saved: Future[Any] = answer.upload_completion if isinstance(answer, AsyncSaveResponse) else answer
        return saved

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        """As torchtitan's: from the run, but for what lies elsewhere (``initial_load_path``)."""
        if from_hf or PurePath(checkpoint_id).parent != PurePath(self.folder):
            super().dcp_load(state_dict, checkpoint_id, from_hf, from_quantized)
            return
        dcp.load(state_dict, checkpoint_id=checkpoint_id, storage_reader=CairnReader(self._writer.checkpointer))
        self.states[MODEL].load_state_dict(state_dict)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _load(self, step: int = -1) -> bool:
        found = self._find_load_step() if step == -1 else step
        if found == -1:  # a fresh start, or what initial_load_path names
            return bool(super()._load(-1))
        self.dcp_load(self._states_to_load(found == 0), self._create_checkpoint_id(found), from_hf=False, from_quantized=False)
        return True

    def _find_load_step(self, folder: str = "") -> int:
        """The run's newest committed step, the same on all ranks; -1: it has none. Of another folder, as torchtitan's."""
        if folder:
            return int(super()._find_load_step(folder))
        newest: list[int | None] = [self._writer.checkpointer.latest_step() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(newest, src=0)
        return -1 if newest[0] is None else newest[0]

    def _close(self) -> None:
        super()._close()
        if hasattr(self, "_writer"):  # torchtitan closes what its constructor could not finish, too
            self._writer.checkpointer.close()
