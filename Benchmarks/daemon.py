"""A cairnd of the benchmark's own, in a folder of its own, for as long as a ``with`` lasts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType


class Daemon:
    def __init__(self, binaries: Path, folder: Path, *, tiers: int, pool: str) -> None:
        self.socket = folder / "cairn.sock"
        self.local, self.top = folder / "local", folder / "global"
        self._folder = folder
        self._binary = binaries / "cairnd"
        folder.mkdir()
        self.local.mkdir()
        text = f"socket: {self.socket}\npool: {{size: {pool}}}\ntiers:\n  local: {{paths: [{self.local}], reserve: 0B}}\n"
        if tiers == 2:
            self.top.mkdir()
            text += f"  global: {{path: {self.top}}}\n"
        (folder / "cairnd.yaml").write_text(text + "retention: {local: {keep: 1}, global: {keep: 1}}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Starts it and gives the seconds until it answers."""
        began = time.perf_counter()
        with open(self._folder / "cairnd.log", "ab") as log:
            command = [self._binary, "--config", self._folder / "cairnd.yaml", "--socket", self.socket]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while time.perf_counter() - began < 30:
            if self._process.poll() is not None:
                raise SystemExit(f"cairnd ended with {self._process.returncode}:\n{self.log_end()}")
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.settimeout(5)
                    probe.connect(os.fspath(self.socket))
                    probe.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')
                    if probe.recv(1):
                        return time.perf_counter() - began
                except OSError:
                    pass
            time.sleep(0.005)
        raise SystemExit(f"cairnd did not answer within 30 s:\n{self.log_end()}")

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def log_end(self) -> str:
        return "\n".join((self._folder / "cairnd.log").read_text(errors="replace").splitlines()[-20:])
