"""States that the tests save and find again, and daemons on folders of a test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from real_daemon import Daemon

MIB = 1 << 20


def state(step: int, mebibytes: int = 16) -> dict[str, Any]:
    return {f"t{index}": np.full(MIB // 4, step * 1000 + index, dtype=np.float32) for index in range(mebibytes)} | {"step": step}


def check(daemon: Daemon, step: int, mebibytes: int = 16) -> None:
    """A later launch gets ``step`` back."""
    into = state(0, mebibytes)
    with daemon.open() as checkpointer:
        checkpointer._link.wait_for_session(20)
        assert checkpointer.restore(into) == step
    for name, expected in state(step, mebibytes).items():
        assert np.array_equal(into[name], expected), name


def small(step: int, tensors: int = 500) -> dict[str, Any]:
    return {f"layer.{index}.weight": np.full(64, step, dtype=np.float32) for index in range(tensors)} | {"step": step}


def check_small(daemon: Daemon, step: int) -> None:
    into = small(0)
    with daemon.open() as checkpointer:
        assert checkpointer.restore(into) == step
    assert into["step"] == step
    assert all((value == step).all() for value in into.values() if isinstance(value, np.ndarray))


def with_paths(daemon: Daemon, paths: list[Path], *, reserve: str = "0B") -> Daemon:
    """The same daemon on other local folders."""
    daemon.stop()
    text = daemon.config.read_text()
    before = next(line for line in text.splitlines() if line.startswith("  local:"))
    after = f"  local: {{paths: [{', '.join(map(str, paths))}], reserve: {reserve}}}"
    daemon.config.write_text(text.replace(before, after))
    return daemon.start()


def with_global(daemon: Daemon, path: Path) -> Daemon:
    daemon.stop()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(f"path: {daemon.shared},", f"path: {path},"))
    daemon.shared = path
    return daemon.start()


def on_disks(folder: Path, local: Path, shared: Path, **settings: Any) -> Daemon:
    """A daemon, not yet started, whose tiers are folders of these filesystems."""
    daemon = Daemon(folder, shared / "cairn", **settings)
    text = daemon.config.read_text()
    daemon.local.rmdir()
    daemon.local = local / "cairn"
    daemon.config.write_text(text.replace(f"paths: [{folder / 'local'}]", f"paths: [{daemon.local}]"))
    return daemon
