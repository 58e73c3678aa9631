"""systemd's part for a daemon that keeps its memory over a restart, without systemd: the notify socket, the descriptor store, and
LISTEN_FDS for the next start. What a manager does at a restart, `kill` and `start` do."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import threading

from real_daemon import Daemon, binary

FIRST = 3
"""Of the descriptors that a start hands over (SD_LISTEN_FDS_START)."""


class Manager:
    """Starts and kills the processes of one `Daemon`, and keeps what it stores between them."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.stored: list[tuple[str, int]] = []
        self.states: list[str] = []
        self._path = daemon.folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def start(self) -> Daemon:
        """The next process of the daemon gets what is stored."""
        with self._lock:
            stored = list(self.stored)
        names = ":".join(name for name, _ in stored)
        # A shell makes LISTEN_PID its own and puts the descriptors in their places, then becomes the daemon. They are moved out
        # of the way first, for a place may be another one's number.
        high = [os.dup(descriptor) for _, descriptor in stored]
        high = [self._above(descriptor, FIRST + len(high) + 64) for descriptor in high]
        places = " ".join(f"{FIRST + index}<&{descriptor}" for index, descriptor in enumerate(high))
        listening = f"LISTEN_PID=$$ LISTEN_FDS={len(high)} LISTEN_FDNAMES={names} " if high else ""
        script = f'exec {places}; {listening}exec "$@"' if high else 'exec "$@"'
        command = ["bash", "-c", script, "bash", str(binary()), "--config", str(self.daemon.config)]
        environment = {"NOTIFY_SOCKET": str(self._path)}
        self.daemon.start(command, pass_fds=high, environment=environment)
        for descriptor in high:
            os.close(descriptor)
        return self.daemon

    @staticmethod
    def _above(descriptor: int, least: int) -> int:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)
        os.close(descriptor)
        return moved

    def kill(self) -> None:
        """SIGKILL for the main process; its workers follow, as the kernel and systemd see to. One that is stuck stays."""
        workers = list(self.daemon.workers().values())
        self.daemon.stop(signal.SIGKILL)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def memory(self, name: str) -> list[int]:
        with self._lock:
            return [descriptor for kept, descriptor in self.stored if kept == name]

    def close(self) -> None:
        self._closed = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", str(self._path))
        self._thread.join(5)
        self._socket.close()
        for _, descriptor in self.stored:
            os.close(descriptor)

    def _listen(self) -> None:
        while not self._closed:
            data, ancillary, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(253 * 4))
            descriptors = array.array("i")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
            said = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            with self._lock:
                self.states.append(data.decode())
                if said.get("FDSTORE") == "1":
                    self._store(said["FDNAME"], list(descriptors))
                if said.get("FDSTOREREMOVE") == "1":
                    for name, descriptor in [one for one in self.stored if one[0] == said["FDNAME"]]:
                        self.stored.remove((name, descriptor))
                        os.close(descriptor)

    def _store(self, name: str, descriptors: list[int]) -> None:
        known = {os.fstat(descriptor).st_ino for _, descriptor in self.stored}
        for descriptor in descriptors:
            if os.fstat(descriptor).st_ino in known:
                os.close(descriptor)
            else:
                self.stored.append((name, descriptor))
