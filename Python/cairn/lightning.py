"""PyTorch Lightning: a CheckpointIO, in the places of TorchCheckpointIO and AsyncCheckpointIO alike.

    from cairn.lightning import CairnCheckpointIO
    io = CairnCheckpointIO("bert")
    trainer = Trainer(plugins=[io], ...)
    trainer.fit(model, ckpt_path=io.latest())

save_checkpoint() returns at once where an optimizer has taken a step already: what it owns is copied until its next step, which
waits. Once the checkpoint is committed, a small file at the path that Lightning chose names it, so that ModelCheckpoint,
`ckpt_path="last"` and "best" find it there. Removing such a file leaves the checkpoint to the daemon's retention.

Lightning's rank 0 saves for all ranks (DDP), so it alone talks to the daemon, and sends the others what it loads. Strategies that
write folders of their own (FSDP, ModelParallel, DeepSpeed) do not ask a CheckpointIO.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from . import errors, history, name_files
from .checkpointer import Checkpointer
from .pickles import AllowPickle

try:
    from lightning.pytorch.plugins import CheckpointIO
    from lightning.pytorch.utilities.rank_zero import rank_zero_only
except ImportError:
    from pytorch_lightning.plugins import CheckpointIO
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

log = logging.getLogger("cairn")

_LATEST = re.compile(r"cairn:(?P<run>[^@]+)@(?P<step>\d{1,18})")


class CairnCheckpointIO(CheckpointIO):  # type: ignore[misc,unused-ignore]
    """Saves and loads Lightning's checkpoint dicts as steps of a run; the step is the trainer's global step.

    Args:
        run: its name.
        allow_pickle: as of cairn.Checkpointer.restore, for what hyperparameters and callbacks hold.
        options: further ones of cairn.Checkpointer.
    """

    def __init__(self, run: str, *, allow_pickle: AllowPickle = False, **options: Any) -> None:
        self.run = run
        self._allow_pickle = allow_pickle
        self._options = options
        self._opened: Checkpointer | None = None
        self._names: dict[str, int] = {}
        """The step that belongs at each path by the last save or removal there; -1: none."""

    def latest(self) -> str | None:
        """What to give to ``fit(ckpt_path=…)``: the newest whole step, or None where there is none. Each rank may ask by itself:
        the step that rank 0 was told is what they all load.

        Raises:
            Unavailable: there is no daemon."""
        step = _from_first(history.newest_step(self.run, socket=self._options.get("socket")))
        return None if step is None else f"cairn:{self.run}@{step}"

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        """Save; what may change before the next optimizer step is copied when this returns."""
        if storage_options is not None:
            raise TypeError("storage_options are not for Cairn, whose daemon's configuration says where checkpoints go")
        step, name = int(checkpoint["global_step"]), os.fspath(path)
        checkpointer = self._checkpointer()
        if step in self._names.values():  # ModelCheckpoint saves a step twice where it keeps a last one too
            with checkpointer.lock():
                pass
        self._names[name] = step
        save = checkpointer.save(step, checkpoint)

        def committed(future: Future[Any]) -> None:
            if future.exception() is None and self._names.get(name) == step:
                self._write_name(Path(name), step)

        save.committed.add_done_callback(committed)

    def load_checkpoint(self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """The checkpoint that a path of ``latest()``, or the file at ``path``, names; its tensors are new, on the CPU. All ranks
        must call it.

        Raises:
            FileNotFoundError: there is no such file or step. ValueError: it is not one of Cairn's. PickleRefused, Unavailable.
        """
        loaded: Any = None
        if _is_first():
            try:
                loaded = self._load(os.fspath(path))
            except (errors.CairnError, OSError, ValueError) as failure:
                loaded = failure
        loaded = _from_first(loaded)
        if isinstance(loaded, Exception):
            raise loaded
        return dict(loaded)

    def _load(self, path: str) -> dict[str, Any]:
        found = _LATEST.fullmatch(path)
        if found is not None:
            run, step = found["run"], int(found["step"])
        else:
            named, number = name_files.read(Path(path))
            if named is None or number is None:
                raise ValueError(f"'{path}' was not written by CairnCheckpointIO")
            run, step = named, number
        if run != self.run:
            raise ValueError(f"'{path}' is of run '{run}', not '{self.run}': give another CairnCheckpointIO to this trainer")
        checkpoint: dict[str, Any] = {}
        try:
            self._checkpointer().restore(checkpoint, step, allow_pickle=self._allow_pickle)
        except errors.NoSuchStep:
            raise FileNotFoundError(f"'{path}': run '{run}' has no whole step {step} any more; latest() names the newest") from None
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove the file that names a step; the step itself is left to the daemon's retention."""
        name = os.fspath(path)
        self._names[name] = -1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)

    def teardown(self) -> None:
        """Wait until what was saved has ended, so that its files are there, and let go of the daemon."""
        made, self._opened = self._opened, None
        if made is not None:
            try:
                made.finish()
            except (errors.CairnError, TimeoutError) as failure:
                log.warning("cairn: %s", failure)

    def _checkpointer(self) -> Checkpointer:
        if self._opened is None:
            self._opened = Checkpointer(self.run, rank=0, world_size=1, **self._options)
            self._opened.guard()
        return self._opened

    def _write_name(self, path: Path, step: int) -> None:
        """Called from the thread that watches the daemon."""
        try:
            name_files.write(path, self.run, step)
        except OSError as failure:
            log.warning("cairn: step %d is committed, but '%s' cannot be written: %s", step, path, failure)


def _is_distributed() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)


def _is_first() -> bool:
    """Whether this process is rank 0; before there is a process group, as the environment says."""
    rank: int = distributed.get_rank() if _is_distributed() else rank_zero_only.rank
    return bool(rank == 0)


def _from_first(value: Any) -> Any:
    """Rank 0's value, on all ranks of a process group."""
    if not _is_distributed():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
