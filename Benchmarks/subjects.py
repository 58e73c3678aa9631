"""What is compared: each saves the same state, and says what that cost the trainer and when the bytes were safe."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from daemon import Daemon
from machine import cpu_seconds, family, forget_pages, sync_folder
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

import cairn

State = dict[str, torch.Tensor]
Row = dict[str, float]
# A training step's work: the seconds that it took, and the processor's seconds of its own thread.
Work = Callable[[], tuple[float, float]]


class CairnSubject:
    """save() with everything lazy, a training step's work, then the fence, as a guarded optimizer has it."""

    def __init__(self, name: str, daemon: Daemon, state: State) -> None:
        self.name, self.daemon, self.state = name, daemon, state
        self._step = 0
        self._open()

    def _open(self) -> None:
        self.ckpt = cairn.Checkpointer(
            "bench", rank=0, world_size=1, socket=self.daemon.socket, attempt=f"bench-{time.time_ns()}", on_unavailable="raise"
        )

    def save(self, work: Work) -> Row:
        self._step += 1
        at: Row = {}
        used = self._cpu()
        began = time.perf_counter()
        save = self.ckpt.save(self._step, self.state, lazy=True)
        called = time.perf_counter()
        for level in ("staged", "local", "committed"):
            future = getattr(save, level)
            future.add_done_callback(lambda _, level=level: at.setdefault(level, time.perf_counter() - began))
        worked, spent = work()
        before = time.perf_counter()
        with self.ckpt.lock():
            fence = time.perf_counter() - before
        save.committed.result(timeout=300)
        self.ckpt.wait_until_finished(timeout=300)
        used = self._cpu() - used - spent
        return {"call": called - began, "work": worked, "fence": fence, "cpu": used, **at, "durable": at["local"]}

    def _cpu(self) -> float:
        """Of the daemon, its workers, and this process."""
        return cpu_seconds(family(self.daemon.pid)) + time.process_time()

    def load_from_memory(self) -> float:
        return self._load()

    def load_cold(self) -> float:
        """By a new daemon, which has nothing in memory, with nothing in the page cache."""
        self.ckpt.close()
        self.daemon.stop()
        forget_pages(self.daemon.local)
        forget_pages(self.daemon.top) if self.daemon.top.exists() else None
        self.daemon.start()
        self._open()
        return self._load()

    def _load(self) -> float:
        began = time.perf_counter()
        if self.ckpt.restore(self.state) is None:
            raise SystemExit(f"{self.name}: nothing was restored")
        return time.perf_counter() - began

    def close(self) -> None:
        self.ckpt.close()


class DCPSubject:
    """torch.distributed.checkpoint into a new folder each time, its files synced by it and the folder by us."""

    def __init__(self, name: str, folder: Path, state: State, *, asynchronous: bool) -> None:
        self.name, self.folder, self.state, self.asynchronous = name, folder, state, asynchronous
        folder.mkdir()
        self._count = 0

    @property
    def _target(self) -> Path:
        return self.folder / str(self._count)

    def save(self, work: Work) -> Row:
        shutil.rmtree(self._target, ignore_errors=True)
        self._count += 1
        used = time.process_time()
        began = time.perf_counter()
        if not self.asynchronous:
            dcp.save(self.state, checkpoint_id=self._target)
            sync_folder(self._target)
            called = durable = time.perf_counter()
            used = time.process_time() - used
            return {"call": called - began, "work": work()[0], "fence": 0.0, "cpu": used, "durable": durable - began}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            response = dcp.async_save(self.state, checkpoint_id=self._target, async_checkpointer_type=AsyncCheckpointerType.THREAD)
        called = time.perf_counter()
        worked, spent = work()
        # Thread mode has staged when async_save returns, so there is no fence; what follows is the upload.
        getattr(response, "upload_completion", response).result()
        sync_folder(self._target)
        durable = time.perf_counter()
        used = time.process_time() - used - spent
        return {"call": called - began, "work": worked, "fence": 0.0, "cpu": used, "durable": durable - began}

    def load_cold(self) -> float:
        forget_pages(self._target)
        began = time.perf_counter()
        dcp.load(self.state, checkpoint_id=self._target)
        return time.perf_counter() - began

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
