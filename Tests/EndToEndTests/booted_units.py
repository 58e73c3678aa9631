"""A systemd of the test's own: `systemd-nspawn` boots it over an overlay of this machine's root, with the units and programs
installed as `make install` would. What runs in it is asked for with `Booted.run`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import binary_beside, until
from real_daemon import ONLY_PYTHONS_STDOUT, binary

ROOT = Path(__file__).parent.parent.parent
MASKED = ["systemd-networkd", "systemd-resolved", "systemd-timesyncd", "glusterd", "postgresql"]


def why_not() -> str | None:
    """What is missing here, if anything."""
    if os.getuid() != 0:
        return "only root can boot a container"
    for tool in ("systemd-nspawn", "nsenter", "systemd-sysusers", "systemctl"):
        if shutil.which(tool) is None:
            return f"{tool} is not here (Debian: systemd-container)"
    return None


class Booted:
    """``folder``: on a filesystem that an overlay may use. ``binds``: folders that it sees, with their names there."""

    def __init__(self, folder: Path, config: str, binds: dict[Path, str] | None = None) -> None:
        reason = why_not()
        if reason:
            pytest.skip(reason)
        self.folder = folder
        self.root = folder / "root"
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        options = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
        command = ["mount", "-t", "overlay", "cairn-test", "-o", options, str(self.root)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no overlay here: {mounted.stderr.strip()}")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._install(config)
            self._boot(binds or {})
        except BaseException:
            self.end()
            raise

    def _install(self, config: str) -> None:
        (self.root / "etc/machine-id").write_text("")
        for unit in MASKED:
            with contextlib.suppress(FileExistsError):
                (self.root / f"etc/systemd/system/{unit}.service").symlink_to("/dev/null")
        for program, name in ((binary(), "cairnd"), (binary_beside("cairn"), "cairn")):
            shutil.copy(program, self.root / "usr/bin" / name)
            (self.root / "usr/bin" / name).chmod(0o755)
        for unit in ("cairnd.service", "cairnd.socket", "cairnd@.service"):
            shutil.copy(ROOT / "systemd" / unit, self.root / "etc/systemd/system" / unit)
        for kind in ("sysusers", "tmpfiles"):
            (self.root / f"usr/lib/{kind}.d").mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / f"systemd/{kind}.conf", self.root / f"usr/lib/{kind}.d/cairn.conf")
        (self.root / "etc/cairn").mkdir(exist_ok=True)
        (self.root / "etc/cairn/cairnd.yaml").write_text(config)

    def _boot(self, binds: dict[Path, str]) -> None:
        # What the trainers need may lie where the container has a folder of its own (/tmp), or another filesystem.
        shown = {path: path for path in (str(ROOT), sys.prefix, str(Path(sys.prefix).resolve()))}
        command = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", "--keep-unit", "--private-network",
            "--link-journal=no", "--capability=all", "--machine=cairntest", "--console=pipe",
            *(f"--bind-ro={here}:{there}" for here, there in shown.items()),
            *(f"--bind={here}:{there}" for here, there in binds.items()),
        ]  # fmt: skip
        with (self.folder / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.leader = until("it boots", self._find_leader, seconds=20)
        state = until("systemd is up", self._is_up, seconds=30)
        print(f"systemd is {state}")
        self.run("systemd-sysusers", "cairn.conf")
        self.run("systemd-tmpfiles", "--create", "cairn.conf")

    def _find_leader(self) -> int | None:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.skip(f"systemd-nspawn does not boot here: {(self.folder / 'boot.log').read_text()[-500:]}")
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
                if int(rest.split()[1]) == self._process.pid and name == "systemd":
                    return int(entry.parent.name)
        return None

    def _is_up(self) -> str | None:
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state if state in ("running", "degraded") else None

    def command(self, *arguments: str) -> list[str]:
        return ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", *arguments]

    def run(self, *arguments: str, check: bool = True, timeout: float = 60.0) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr, self.journal())
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-p", name, "--value", unit).strip()

    def journal(self, unit: str = "cairnd.service") -> str:
        """What the unit's processes said since the boot."""
        return subprocess.run(
            self.command("journalctl", "-u", unit, "-o", "cat", "--no-pager"), capture_output=True, text=True, timeout=30
        ).stdout  # fmt: skip

    def workers(self, *names: str) -> list[str]:
        """Their process ids inside."""
        return [self.run("pgrep", "-x", f"cairnd-{name}").split()[-1] for name in names]

    def trainer(self, script: str, *, user: str | None = None, socket: str = "/run/cairn/cairn.sock") -> subprocess.Popen[str]:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        variables = ["PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT / 'Python'}", f"CAIRN_SOCKET={socket}", "PYTHONDONTWRITEBYTECODE=1"]
        environment = ["env", "-i", *variables]
        return subprocess.Popen(
            self.command(*as_user, *environment, sys.executable, "-c", ONLY_PYTHONS_STDOUT + script),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(15)
        for _ in range(50):
            if subprocess.run(["umount", str(self.root)], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
