"""A cairnd of the benchmark's own, in a folder of its own, for as long as a ``with`` lasts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from machine import family

MIB = 1 << 20
CHUNK = 8 * MIB
LEAST_POOL = 16 * CHUNK


class Daemon:
    """``pool``: bytes, made whole chunks. ``tiers``: of local and global, all under ``folder``. ``keep``: steps of each tier.
    ``local``: further settings of the local tier, as `, io: threads`."""

    def __init__(
        self,
        binaries: Path,
        folder: Path,
        *,
        pool: int,
        tiers: Sequence[str] = ("local", "global"),
        keep: int = 1,
        local: str = "",
    ) -> None:
        self.socket = folder / "cairn.sock"
        self.pool = max(LEAST_POOL, -(-pool // CHUNK) * CHUNK)
        self._folder, self._binaries = folder, binaries
        self.folders = [folder / name for name in tiers]
        for each in self.folders:
            each.mkdir(parents=True)
        text = f"socket: {self.socket}\npool: {{size: {self.pool // MIB}MiB}}\n"
        text += "tiers:\n"
        text += f"  local: {{paths: [{folder / 'local'}], reserve: 0B{local}}}\n" if "local" in tiers else ""
        text += f"  global: {{path: {folder / 'global'}}}\n" if "global" in tiers else ""
        (folder / "cairnd.yaml").write_text(text + f"retention: {{local: {{keep: {keep}}}, global: {{keep: {keep}}}}}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        """Of the main process and its workers."""
        return family(self._process.pid) if self._process is not None else []

    def start(self, *, filled: bool = True) -> float:
        """Start it; the seconds until it answered. ``filled``: then wait until its whole pool is there."""
        began = time.perf_counter()
        with open(self._folder / "cairnd.log", "ab") as log:
            command: list[Path | str] = [
                self._binaries / "cairnd",
                "--config",
                self._folder / "cairnd.yaml",
                "--socket",
                self.socket,
            ]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"cairnd ended with {self._process.returncode}:\n{self._log_end()}")
            if time.perf_counter() - began > 30:
                raise RuntimeError(f"cairnd did not answer within 30 s:\n{self._log_end()}")
            time.sleep(0.005)
        ready = time.perf_counter() - began
        if filled:
            self.wait_filled()
        return ready

    def wait_filled(self) -> None:
        deadline = time.monotonic() + 60
        while self.status()["pool"]["filledBytes"] < self.pool:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the pool was not filled within 60 s:\n{self._log_end()}")
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        command: list[Path | str] = [self._binaries / "cairn", "status", "--json", "--socket", self.socket]
        found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30).stdout)
        return found

    def drop_deleted(self) -> None:
        """Remove what retention has set aside: the daemon would in ten minutes, and a benchmark fills the drive sooner."""
        for tier in self.folders:
            for gone in tier.glob("*/*/.gone-*"):
                shutil.rmtree(gone, ignore_errors=True)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.settimeout(5)
                probe.connect(os.fspath(self.socket))
                probe.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')
                return bool(probe.recv(1))
            except OSError:
                return False

    def _log_end(self) -> str:
        return "\n".join((self._folder / "cairnd.log").read_text(errors="replace").splitlines()[-20:])
