"""A machine of its own for a test: systemd as the first process of a container (systemd-nspawn), on a copy-on-write view of this
machine's root. What is installed, changed or started in it is gone with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import pytest
from real_daemon import ROOT, short_folder

BOOT_SECONDS = 60.0
CLONE = Path("/clone")
"""Where this repository is there: its /tmp is empty."""
PYTHON = CLONE / ".venv" / "bin" / "python"
MASKED = [f"{name}.service" for name in ("systemd-networkd", "systemd-resolved", "systemd-timesyncd", "glusterd", "postgresql")]
"""Of this machine's services those that would do anything there."""


class Booted:
    """``with Booted() as machine: machine.run("systemctl", …)``. ``binds``: folders that it sees, with their names there."""

    def __init__(self, binds: dict[Path, str] | None = None) -> None:
        if os.getuid() != 0 or not shutil.which("systemd-nspawn"):
            pytest.skip("needs root and systemd-nspawn (apt-get install systemd-container)")
        self._folder = short_folder()
        self.root = self._folder / "root"
        self._container: subprocess.Popen[bytes] | None = None
        self._first = 0
        # A virtual environment may be a link to elsewhere.
        elsewhere = Path(sys.prefix).resolve()
        self._binds = [f"--bind={here}:{there}" for here, there in (binds or {}).items()]
        self._binds += [] if elsewhere.is_relative_to(ROOT) else [f"--bind-ro={elsewhere}"]

    def prepare(self) -> None:
        """Before it boots: put what it is to find into ``root``."""

    def __enter__(self) -> Booted:
        for name in ("upper", "work", "root"):
            (self._folder / name).mkdir()
        options = f"lowerdir=/,upperdir={self._folder}/upper,workdir={self._folder}/work"
        mounted = subprocess.run(["mount", "-t", "overlay", "cairn-test", "-o", options, self.root], capture_output=True, text=True)
        if mounted.returncode != 0:
            shutil.rmtree(self._folder)
            pytest.skip(f"no overlay over this root: {mounted.stderr.strip()}")
        try:
            (self.root / "etc" / "machine-id").write_text("")
            for unit in MASKED:
                target = self.root / "etc" / "systemd" / "system" / unit
                target.unlink(missing_ok=True)
                target.symlink_to("/dev/null")
            # An image for containers forbids packages to start their services; this one is a machine.
            (self.root / "usr" / "sbin" / "policy-rc.d").unlink(missing_ok=True)
            self.prepare()
            # Without CAP_IPC_LOCK nspawn's filter refuses mlock.
            command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", "--keep-unit"]
            command += [f"--bind-ro={ROOT}:{CLONE}", *self._binds, "--private-network", "--link-journal=no", "--capability=all"]
            command += [f"--machine=t{os.getpid()}", "--console=pipe"]
            with (self._folder / "boot.log").open("wb") as log:
                nothing = subprocess.DEVNULL
                self._container = subprocess.Popen(command, stdin=nothing, stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + BOOT_SECONDS
            while not self._is_running():
                if self._container.poll() is not None or time.monotonic() > deadline:
                    said = (self._folder / "boot.log").read_text(errors="replace")[-500:]
                    pytest.skip(f"systemd-nspawn does not boot here within {BOOT_SECONDS:g} s: {said}")
                time.sleep(0.1)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _is_running(self) -> bool:
        assert self._container is not None
        children: list[str] = []
        with contextlib.suppress(OSError):  # it has ended
            children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._first = int(children[0])
        state = subprocess.run(self.inside("systemctl", "is-system-running"), capture_output=True, text=True, timeout=20)
        return state.stdout.strip() in ("running", "degraded")

    def inside(self, *command: str | Path) -> list[str]:
        """The command that runs another one there."""
        return ["nsenter", "-t", str(self._first), "-m", "-u", "-i", "-n", "-p", "-C", "--wd=/", *map(str, command)]

    def run(self, *command: str | Path, code: int | None = 0, seconds: float = 60) -> str:
        """What a command prints there; its exit code must be as expected, unless ``code`` is None."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        environment["DEBIAN_FRONTEND"] = "noninteractive"
        done = subprocess.run(self.inside(*command), env=environment, capture_output=True, text=True, timeout=seconds)
        assert code is None or done.returncode == code, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._first:
            with contextlib.suppress(subprocess.TimeoutExpired):
                print(f"its journal:\n{self.run('journalctl', '--no-pager', '--lines=60', '--unit=cairnd*', code=None)}")
        if self._container is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._container.send_signal(signal.SIGTERM)
                self._container.wait(20)
            if self._container.poll() is None:
                self._container.kill()
                self._container.wait(10)
        for _ in range(50):
            if subprocess.run(["umount", self.root], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "--lazy", self.root], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)
