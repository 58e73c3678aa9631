"""`cairn doctor` on real troubles: each is made, found with its remedy, and gone again."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jobs import state
from machine import Mounts, binary_beside
from real_daemon import Cluster, Daemon


def doctor(*arguments: str, **options: Any) -> tuple[int, dict[tuple[str, str | None], dict[str, Any]]]:
    """The exit code, and the findings by check and folder."""
    command = [str(binary_beside("cairn")), "doctor", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert done.stdout, f"cairn doctor ended with {done.returncode}: {done.stderr}"
    return done.returncode, {(one["check"], one.get("path")): one for one in json.loads(done.stdout)["findings"]}


def grade(found: dict[tuple[str, str | None], dict[str, Any]], check: str, path: Path | None = None) -> str:
    one = found[(check, None if path is None else str(path))]
    assert (one["grade"] in ("ok", "skipped")) or one["remedy"], one
    return str(one["grade"])


def placed(folder: Path, tier: Path, **settings: Any) -> Daemon:
    """Its one tier is ``tier``; it does not run yet."""
    daemon = Daemon(folder, None, **settings)
    daemon.config.write_text(daemon.config.read_text().replace(f"paths: [{daemon.local}]", f"paths: [{tier}]"))
    return daemon


def configured(folder: Path, tier: Path, **settings: Any) -> list[str]:
    daemon = placed(folder, tier, **settings)
    return ["--config", str(daemon.config), "--socket", daemon.socket]


def test_a_running_daemon_is_looked_at(mounts: Mounts, cluster: Cluster) -> None:
    where = mounts.xfs() / "cairn"
    daemon = placed(cluster.folder / "one", where, retention="{local: {keep: 3}}")
    cluster.daemons.append(daemon)
    daemon.start()
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=30)
    code, found = doctor("--socket", daemon.socket)
    assert code == 0, found
    checks = {check: grade(found, check, where) for check in ("filesystem", "writable", "direct", "names", "tierClock", "space")}
    assert set(checks.values()) == {"ok"}, checks
    assert grade(found, "version") == "ok"
    assert "more steps of" in found[("space", str(where))]["text"]
    assert not list(where.glob(".cairn-doctor*"))
    # Nearly full: no room for one more step.
    space = os.statvfs(where)
    with (where.parent / "fill").open("wb") as fill:
        os.posix_fallocate(fill.fileno(), 0, space.f_bavail * space.f_frsize - (8 << 20))
    code, found = doctor("--socket", daemon.socket)
    assert code == 1
    assert grade(found, "space", where) == "problem"


def test_memory_as_a_tier_is_a_problem(folder: Path, mounts: Mounts) -> None:
    where = mounts.tmpfs("64M") / "cairn"
    code, found = doctor(*configured(folder / "d", where))
    assert code == 1
    assert grade(found, "version") == "skipped"
    assert grade(found, "filesystem", where) == "problem"
    code, found = doctor(*configured(folder / "e", where, direct="off"))
    assert grade(found, "direct", where) == "ok"


def test_a_missing_mount_and_a_full_filesystem_are_problems(folder: Path, mounts: Mounts) -> None:
    code, found = doctor(*configured(folder / "d", folder / "nothing" / "cairn"))
    assert code == 1
    assert grade(found, "folder", folder / "nothing" / "cairn") == "problem"
    where = mounts.ext4() / "cairn"
    code, found = doctor(*configured(folder / "e", where, reserve="10GiB"))
    assert code == 1
    assert grade(found, "space", where) == "problem"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can lower a limit and give up what overrides it")
def test_a_small_memlock_limit_is_found(folder: Path, mounts: Mounts) -> None:
    where = mounts.xfs() / "cairn"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
        os.setgid(65534)
        os.setuid(65534)

    folder.chmod(0o755)
    arguments = configured(folder / "d", where)
    code, found = doctor(*arguments, preexec_fn=limited)
    assert grade(found, "memlock") == "warning"
    assert "8.0 MiB" in found[("memlock", None)]["text"]
    # That user may not write there either.
    assert code == 1
    assert grade(found, "writable", where) == "problem"


def test_sysctls_are_found_and_put_back(folder: Path, mounts: Mounts) -> None:
    switch = Path("/proc/sys/kernel/io_uring_disabled")
    try:
        before = switch.read_text()
        switch.write_text("2")
    except OSError as refused:
        pytest.skip(f"io_uring cannot be switched off here: {refused}")
    try:
        code, found = doctor(*configured(folder / "d", where := mounts.xfs() / "cairn"))
        assert grade(found, "ioUring") == "warning"
        assert "io_uring_disabled=0" in found[("ioUring", None)]["remedy"]
        code, found = doctor(*configured(folder / "e", where, io="io_uring"))
        assert code == 1
        assert grade(found, "ioUring") == "problem"
    finally:
        switch.write_text(before)


def test_a_bad_configuration_ends_with_its_error(folder: Path) -> None:
    bad = folder / "bad.yaml"
    bad.write_text("tiers: {local: {path: /x}}\n")
    done = subprocess.run([str(binary_beside("cairn")), "doctor", "--config", str(bad)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "unknown key 'path'" in done.stderr
