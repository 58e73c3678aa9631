"""torch-checkpointing's manager (the PyPI package, 0.1.1) with Cairn behind it: its users change the import.

    from cairn.torch.checkpointing import CheckpointManager, ItemSpec

A checkpoint's id stays a path such as `/ckpt/step_1000`: its last part's number is the step, and the folder before it names the run
(`ckpt-` and a digest of its whole path, unless Config says another). Nothing is written there: where the bytes go, the daemon's
configuration says. Without the package's resharders any sharding restores into any other.

`save()` copies at once what may change before the next optimizer step, and later what a stepping optimizer owns; `lock()` waits for
it, and so does each step of torch's optimizers, locked or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .. import errors, limits
from ..checkpointer import Checkpointer
from ..history import newest_step
from ..pickles import AllowPickle
from ..plan import Only

_KEY = re.compile(r"[a-zA-Z0-9_-]+")
_STEP = re.compile(r"(?:.*[^0-9])?([0-9]{1,18})")


@dataclass(frozen=True)
class ItemSpec:
    """How one item is saved. ``requires_copy`` and ``resharder`` are taken and change nothing: what must be copied is found out,
    and any sharding is restored. ``layout``, the name and format of an item's own file, cannot be had. ``required``: a payload must
    have the item."""

    requires_copy: bool = True
    layout: Any = None
    resharder: Any = None
    required: bool = True


@dataclass(kw_only=True)
class CheckpointSaverConfig:
    """``wait_timeout_secs``: how long save() and close() wait for a commit; None: as long as Cairn's own bound."""

    wait_timeout_secs: float | None = limits.FINISH_SECONDS


class SyncCheckpointSaverConfig(CheckpointSaverConfig):
    """save() returns when the step is committed."""


class AsyncCheckpointSaverConfig(CheckpointSaverConfig):
    """save() returns a future."""


class CheckpointManager:
    """Saves and loads mappings of items by the paths of their checkpoints."""

    @dataclass(kw_only=True)
    class Config:
        """The package's own, and what Cairn needs.

        Args:
            items, default: ItemSpecs (this module's or the package's) by key; with ``default=None`` other keys are refused.
            save: a SyncCheckpointSaverConfig or AsyncCheckpointSaverConfig, this module's or the package's.
            load: taken; its ``use_mmap`` has no meaning here.
            run: the run's name; default: made of the folder that a checkpoint's path names.
            options: of cairn.Checkpointer, as ``{"replicated": True}``.
            allow_pickle: as of cairn.Checkpointer.restore.
            storage_config and what follows: must be left out, for the daemon writes.
        """

        items: Mapping[str, Any] = field(default_factory=dict)
        default: Any = field(default_factory=ItemSpec)
        save: Any = field(default_factory=AsyncCheckpointSaverConfig)
        load: Any = None
        run: str | None = None
        options: Mapping[str, Any] = field(default_factory=dict)
        allow_pickle: AllowPickle = False
        storage_config: Any = None
        subprocess_init_fn: Callable[..., None] | None = None
        subprocess_init_args: tuple[Any, ...] = ()
        pre_finalize_callback: Callable[..., None] | None = None
        finalize_callback: Callable[..., None] | None = None

        def build(self) -> CheckpointManager:
            return CheckpointManager(config=self)

        @classmethod
        def with_sync_save(cls) -> CheckpointManager.Config:
            return cls(save=SyncCheckpointSaverConfig())

        @classmethod
        def with_async_save(cls) -> CheckpointManager.Config:
            return cls(save=AsyncCheckpointSaverConfig())

    def __init__(self, config: Config | None = None) -> None:
        self._config = config = config or CheckpointManager.Config()
        foreign = ("storage_config", "subprocess_init_fn", "pre_finalize_callback", "finalize_callback")
        given = [name for name in foreign if getattr(config, name) is not None]
        given += [f"items['{key}'].layout" for key, spec in config.items.items() if spec.layout is not None]
        if given or (config.default is not None and config.default.layout is not None):
            raise ValueError(
                f"{', '.join(given) or 'default.layout'} cannot be had with Cairn: its daemon writes, and its configuration says "
                "where; leave it out, and use the save's future for what is to follow a commit"
            )
        self._sync = any(kind.__name__ == "SyncCheckpointSaverConfig" for kind in type(config.save).__mro__)
        self._timeout = float(config.save.wait_timeout_secs or limits.FINISH_SECONDS)
        self._open: dict[str, Checkpointer] = {}
        self._write: Future[Any] | None = None
        self._closed = False

    def save(self, checkpoint_id: str | os.PathLike[str], checkpoint: Mapping[str, Any]) -> Future[Any] | None:
        """Save a payload; returns the future of its commit, or with a Sync config None, once it is committed.

        Raises:
            RuntimeError: the manager is closed. KeyError, ValueError: keys that the config does not allow, or an id without a step.
            CheckpointFailed (Sync only), UnsupportedTensor, InvalidShard.
        """
        self._check("save", checkpoint)
        run, step = self._where(checkpoint_id)
        save = self._checkpointer(run).save(step, dict(checkpoint))
        self._write = save.committed
        if not self._sync:
            return self._write
        save.wait("committed", timeout=self._timeout)
        return None

    def load(
        self,
        checkpoint_id: str | os.PathLike[str],
        into: Mapping[str, Any] | None = None,
        *,
        map_location: Any = None,
        strict: bool = False,
        metadata_format: Any = None,
    ) -> Mapping[str, Any]:
        """Load into the tensors and containers of ``into``, in place; its keys say which items are read.

        All ranks must call it. An item of None is made anew, as are all of ``Config.items`` where ``into`` is None.

        Raises:
            FileNotFoundError: no such step. RuntimeError: the manager is closed; with ``strict``, something is missing.
        """
        if map_location is not None or metadata_format is not None:
            raise ValueError("map_location and metadata_format cannot be had with Cairn: it loads into what `into` holds")
        given = into if into is not None else dict.fromkeys(self._config.items)
        if not given:
            raise ValueError("load() needs into=, or Config.items, to know which items to read")
        self._check("load", given)
        run, step = self._where(checkpoint_id)
        state = Only(given)
        try:
            self._checkpointer(run).restore(state, step, strict=strict, allow_pickle=self._config.allow_pickle)
        except errors.NoSuchStep as failure:
            raise FileNotFoundError(f"'{os.fspath(checkpoint_id)}': run '{run}' has no whole step {step}") from failure
        except errors.Mismatch as failure:
            raise RuntimeError(f"'{os.fspath(checkpoint_id)}': {failure}") from failure
        return dict(state)

    def latest_step(self, folder: str | os.PathLike[str]) -> int | None:
        """The newest whole step of the checkpoints in ``folder``, as its names would tell if they were files. None: there is none.

        Raises:
            Unavailable: there is no daemon."""
        return newest_step(self._run(os.fspath(folder)), socket=self._config.options.get("socket"))

    def prewarm_staging(self, checkpoint: Mapping[str, Any]) -> None:
        """Nothing is to be done: the daemon's memory is there before a save."""
        self._check("prewarm staging", checkpoint)

    @contextlib.contextmanager
    def lock(self) -> Any:
        """What is done inside may change the state: waits until the last save is copied."""
        for checkpointer in self._open.values():
            with checkpointer.lock():
                pass
        yield

    def close(self) -> None:
        """Wait until the last save is committed, and let go of the daemon.

        Raises:
            CheckpointFailed: the last save failed. TimeoutError: it took longer than the config allows.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._write is not None:
                self._write.result(timeout=self._timeout)
        finally:
            for checkpointer in self._open.values():
                checkpointer.close()

    def _checkpointer(self, run: str) -> Checkpointer:
        if run not in self._open:
            self._open[run] = made = Checkpointer(run, **self._config.options)
            made.guard()
        return self._open[run]

    def _where(self, checkpoint_id: str | os.PathLike[str]) -> tuple[str, int]:
        """The run and the step that a path names."""
        path = os.fspath(checkpoint_id).rstrip("/")
        found = _STEP.fullmatch(os.path.basename(path))
        if found is None:
            raise ValueError(f"'{path}' does not end in a step's number, as '/ckpt/step_1000' does: Cairn orders checkpoints by it")
        return self._run(os.path.dirname(path)), int(found[1])

    def _run(self, folder: str) -> str:
        whole = folder.rstrip("/") if "://" in folder else os.path.abspath(folder)
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(whole)).lstrip("._-")[:80] or "run"
        return self._config.run or f"{slug}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def _check(self, what: str, payload: Mapping[str, Any]) -> None:
        if self._closed:
            raise RuntimeError(f"Cannot {what} with a closed CheckpointManager")
        missing = sorted(key for key, spec in self._config.items.items() if spec.required and key not in payload)
        if missing:
            raise KeyError(f"required items are missing: {missing}")
        extra = sorted(set(payload) - set(self._config.items))
        if extra and self._config.default is None:
            raise KeyError(f"items {extra} have no ItemSpec, and default is None")
        wrong = [key for key in payload if not _KEY.fullmatch(key)]
        if wrong:
            raise ValueError(f"keys {wrong} are not letters, digits, '_' and '-' only")
