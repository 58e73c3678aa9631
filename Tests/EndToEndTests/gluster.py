"""A GlusterFS volume on loopback addresses of its own, and what can be done to it: bricks that die, hang and are cut off, mounts
whose client dies or hangs. Nothing of an installed GlusterFS is used but its programs: no default port, socket or folder.

Whatever ends the tests, nothing is left: a janitor (this file as a program) waits for the end of its standard input, then ends
the processes that name the volume's folder, unmounts, and removes rules and files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PEERS = 3
MANAGEMENT_PORT = 24007
PING_SECONDS = 3
"""A brick that does not answer for so long is left out: every test of a hang waits for it. Operators set 10 to 42."""
OPTIONS = {
    "network.ping-timeout": str(PING_SECONDS),
    "network.remote-dio": "disable",
    "performance.strict-o-direct": "on",
}
"""As Docs/filesystems.md asks for."""
FUSE_CONTROL = Path("/sys/fs/fuse/connections")


class Unavailable(Exception):
    """GlusterFS cannot run here; the text says why."""


def missing() -> str | None:
    """What a volume lacks here, as far as that is seen without trying."""
    if os.getuid() != 0:
        return "only root can mount"
    for program in ("glusterd", "glusterfs", "gluster"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None if Path("/dev/fuse").exists() else "there is no /dev/fuse"


def call(*command: str, seconds: float = 60.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command[:2])} … {' '.join(command[-3:])}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def wait_for(what: str, condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def free_addresses() -> list[str]:
    """Loopback addresses on which no peer of another volume listens."""
    for offset in range(250):
        network = f"127.77.{(os.getpid() + offset) % 250 + 1}"
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((f"{network}.1", MANAGEMENT_PORT))
            return [f"{network}.{peer + 1}" for peer in range(PEERS)]
    raise Unavailable("no loopback address is free")


class Mount:
    """One node's own mount of a volume."""

    def __init__(self, path: Path, address: str, volume: str, options: tuple[str, ...]) -> None:
        self.path = path
        self._pid_file = path.with_name(f"{path.name}.pid")
        self._command = ["glusterfs", f"--volfile-server={address}", f"--volfile-id={volume}", f"--pid-file={self._pid_file}",
                         f"--log-file={path.with_name(f'{path.name}.log')}", *options, str(path)]  # fmt: skip
        path.mkdir()
        # What is written here while nothing is mounted would be on the local disk.
        path.chmod(0o500)

    def up(self) -> Mount:
        call(*self._command)
        wait_for(f"a mount at {self.path}", lambda: os.path.ismount(self.path))
        self.pid = int(self._pid_file.read_text())
        self._connection = FUSE_CONTROL / str(os.stat(self.path).st_dev)
        return self

    def client(self, number: int) -> None:
        send(self.pid, number)

    def abort(self) -> None:
        """Every call into the mount fails, also those under way."""
        if not (FUSE_CONTROL / "..").exists() or not os.path.ismount(FUSE_CONTROL):
            call("mount", "-t", "fusectl", "none", str(FUSE_CONTROL))
        (self._connection / "abort").write_text("1")

    def unmount(self) -> None:
        """What an operator does about a mount whose client is gone or hangs."""
        self.client(signal.SIGCONT)
        self.client(signal.SIGKILL)
        call("umount", "--lazy", str(self.path))

    def well(self) -> None:
        """Mounted, and its client answers, or none is."""
        self.client(signal.SIGCONT)
        if not os.path.ismount(self.path):
            self.up()

    def writable(self) -> bool:
        probe = self.path / f".probe-{time.monotonic_ns()}"
        try:
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError:
            return False
        return True


class Volume:
    """Three peers, and on them a replicated volume ``vol``; its bricks are numbered 0 to 2."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cairn-gluster-"))
        self.addresses = free_addresses()
        self.mounts: list[Mount] = []
        self._cut: set[int] = set()
        self._janitor = subprocess.Popen([sys.executable, __file__, str(self.folder), *self.addresses], stdin=subprocess.PIPE,
                                         start_new_session=True)  # fmt: skip

    def close(self) -> None:
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()
        if self._janitor.wait(60) != 0:
            raise RuntimeError(f"the janitor left something of {self.folder}")

    # The peers.

    def _peer(self, number: int) -> Path:
        return self.folder / str(number)

    def gluster(self, *command: str) -> str:
        return call("gluster", "--mode=script", f"--log-file={self.folder / 'cli.log'}",
                    f"--glusterd-sock={self._peer(0) / 'sock'}", *command)  # fmt: skip

    def up(self) -> Volume:
        for number, address in enumerate(self.addresses):
            peer = self._peer(number)
            for name in ("wd", "run", "log", "brick", "dist"):
                (peer / name).mkdir(parents=True)
            options = {"working-directory": peer / "wd", "transport.socket.bind-address": address, "run-directory": peer / "run",
                       "glusterd-sockfile": peer / "sock", "cluster-test-mode": peer / "log"}  # fmt: skip
            words = [word for key, value in options.items() for word in ("--xlator-option", f"management.{key}={value}")]
            call("glusterd", *words, "-l", str(peer / "log" / "glusterd.log"), "-p", str(peer / "glusterd.pid"))
        for address in self.addresses[1:]:
            self.gluster("peer", "probe", address)
        wait_for("all peers", lambda: self.gluster("pool", "list").count("Connected") == PEERS)
        self.create("vol", "replica", str(PEERS), *(f"{at}:{self._peer(n) / 'brick'}" for n, at in enumerate(self.addresses)))
        return self

    def create(self, name: str, *words: str) -> None:
        self.gluster("volume", "create", name, *words, "force")
        self.gluster("volume", "set", name, *(word for option in OPTIONS.items() for word in option))
        self.gluster("volume", "start", name)

    def create_distributed(self) -> None:
        """A volume ``dist`` of two bricks without replicas: a name's hash says on which of them it is."""
        self.create("dist", *(f"{self.addresses[n]}:{self._peer(n) / 'dist'}" for n in (0, 1)))

    def mount(self, name: str, *options: str, volume: str = "vol") -> Mount:
        made = Mount(self.folder / name, self.addresses[len(self.mounts) % PEERS], volume, options).up()
        self.mounts.append(made)
        wait_for(f"{made.path} can be written", made.writable)
        return made

    def forget(self, *mounts: Mount) -> None:
        for mount in mounts:
            self.mounts.remove(mount)
            mount.unmount()

    @contextlib.contextmanager
    def profiled(self) -> Iterator[dict[str, int]]:
        """Counts, at the end, what was asked of brick 0 meanwhile."""
        counts: dict[str, int] = {}
        self.gluster("volume", "profile", "vol", "start")
        try:
            self.gluster("volume", "profile", "vol", "info", "clear")
            yield counts
            told = self.gluster("volume", "profile", "vol", "info", "cumulative").split("Brick:")[1]
            # share, average, least and most time, calls, name
            counts |= {name: int(calls) for calls, name in re.findall(r"[mun]s +(\d+) +([A-Z]+)$", told, re.M)}
        finally:
            self.gluster("volume", "profile", "vol", "stop")

    # Bricks.

    def brick(self, number: int) -> int:
        (file,) = (self._peer(number) / "run" / "vols" / "vol").glob("*.pid")
        return int(file.read_text() or 0)

    def signal_bricks(self, sent: int, numbers: tuple[int, ...]) -> None:
        for pid in [self.brick(number) for number in numbers]:
            send(pid, sent)

    def can_cut(self) -> bool:
        return (
            shutil.which("iptables") is not None
            and subprocess.run(["iptables", "-w", "-S", "INPUT"], capture_output=True).returncode == 0
        )

    def cut(self, number: int) -> None:
        """Nothing reaches this peer any more, nor leaves it."""
        for rule in rules(self.addresses[number]):
            call("iptables", "-w", "-A", *rule)
        self._cut.add(number)

    def uncut(self) -> None:
        for number in self._cut:
            for rule in rules(self.addresses[number]):
                call("iptables", "-w", "-D", *rule)
        self._cut.clear()

    def well(self) -> None:
        """Every brick runs and is reached, every mount can be written."""
        self.uncut()
        for mount in self.mounts:
            mount.client(signal.SIGCONT)
        self.signal_bricks(signal.SIGCONT, tuple(range(PEERS)))

        def revived() -> bool:
            if all(alive(self.brick(number)) for number in range(PEERS)):
                return True
            # Of no effect before glusterd has noticed that a brick died.
            self.gluster("volume", "start", "vol", "force")
            return False

        wait_for("every brick runs", revived)
        for mount in self.mounts:
            wait_for(f"{mount.path} can be written", mount.writable)


def rules(address: str) -> list[list[str]]:
    return [["INPUT", "-i", "lo", way, address, "-j", "DROP"] for way in ("-d", "-s")]


# The janitor.


def processes(folder: str) -> list[int]:
    """GlusterFS' own whose command line names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            program, _, words = entry.read_text(errors="replace").partition("\0")
            if "gluster" in Path(program).name and f"{folder}/" in words:
                found.append(int(entry.parent.name))
    return found


def mounted(folder: str) -> list[str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]


def clean(folder: str, addresses: list[str]) -> int:
    for address in addresses if shutil.which("iptables") else []:
        for rule in rules(address):
            while subprocess.run(["iptables", "-w", "-D", *rule], capture_output=True).returncode == 0:
                pass
    # Of no use any more, and an orderly end waits for bricks. Who still has a file there gets errors.
    for where in mounted(folder):
        subprocess.run(["umount", "--lazy", where], capture_output=True, timeout=20)
    deadline = time.monotonic() + 20
    while (left := processes(folder)) and time.monotonic() < deadline:
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.1)
    if not mounted(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if left or Path(folder).exists() else 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    sys.exit(clean(sys.argv[1], sys.argv[2:]))
