"""The incident table of Docs/operators-guide.md, line by line: each symptom is brought about on a real daemon, the line's command
is run as it stands there and says what the line says, and the remedy helps.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from jobs import check, state, with_global, with_paths
from machine import NOBODY, Mounts, as_nobody, binary_beside, cli, committed, status, steps, tier, unmount, until
from real_daemon import ROOT, Cluster, Daemon, binary

import cairn


@dataclass
class Line:
    """One of the table: what one sees, what one runs, what that says (in it, between backticks), what helps."""

    symptom: str
    command: str
    says: list[str]
    remedy: str

    def run(self, daemon: Daemon, *, code: int, user: list[str] | None = None, **names: str) -> str:
        """The command with RUN, STEP and so on as ``names`` has them; the exit code and each thing it should say are checked."""
        placeholders = {"RUN": "run", "/etc/cairn/cairnd.yaml": str(daemon.config)} | names
        text = re.sub(r"/etc/[\w/.]+|\w+", lambda found: placeholders.get(found[0], found[0]), self.command)
        program, *arguments = shlex.split(text)
        command = [*(user or []), str(binary() if program == "cairnd" else binary_beside(program)), *arguments]
        environment = os.environ | {"CAIRN_SOCKET": daemon.socket}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd="/")
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == code, f"{text} ended with {done.returncode}: {said}"
        for part in self.says:
            assert part in said, f"{text} does not say '{part}': {said}"
        return said

    def comes_to_say(self, daemon: Daemon, *, code: int = 0, **names: str) -> None:
        def says() -> bool:
            try:
                return bool(self.run(daemon, code=code, **names))
            except AssertionError as failure:
                seen.append(str(failure))
                return False

        seen: list[str] = []
        try:
            until(f"`{self.command}` says so", says, seconds=30)
        except AssertionError:
            raise AssertionError(seen[-1]) from None


def table() -> dict[str, Line]:
    text = (ROOT / "Docs" / "operators-guide.md").read_text().partition("## Incidents")[2]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    found = {}
    for symptom, command, says, remedy in rows[1:]:
        found[symptom] = Line(symptom, command.strip("`"), re.findall(r"`([^`]+)`", says), remedy)
    return found


TABLE = table()
Scenario = Callable[["Line", Cluster, Mounts], None]
SCENARIOS: dict[str, Scenario] = {}


def line(symptom: str) -> Callable[[Scenario], Scenario]:
    def remember(scenario: Scenario) -> Scenario:
        SCENARIOS[symptom] = scenario
        return scenario

    return remember


@pytest.mark.parametrize("symptom", TABLE)
def test_line(symptom: str, cluster: Cluster, mounts: Mounts) -> None:
    SCENARIOS[symptom](TABLE[symptom], cluster, mounts)


def test_no_scenario_lacks_its_line() -> None:
    assert set(SCENARIOS) == set(TABLE)


@line("trainers log *no checkpoints for now*")
def no_daemon(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        daemon.stop()
        row.run(daemon, code=3)
        daemon.start()
        checkpointer._link.wait_for_session(20)
        checkpointer.save(1, state(1)).wait("committed", timeout=30)  # the trainer went on, and needs no restart


@line("the daemon ends at once when it is started")
def does_not_start(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    daemon.stop()
    good = daemon.config.read_text()
    daemon.config.write_text(good.replace("chunk: 8MiB", "chunk: 8MB"))
    row.run(daemon, code=2)
    daemon.config.write_text(good)
    daemon.start()
    check_saves(daemon, 1)


def check_saves(daemon: Daemon, step: int) -> None:
    with daemon.open() as checkpointer:
        checkpointer.save(step, state(step)).wait("committed", timeout=30)


@line("saves reach *local*, and no step is committed any more: full")
def full(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.tmpfs("100m")
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    ballast = where / "ballast"
    ballast.write_bytes(b"x" * (80 << 20))
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1, 40)).wait("local", timeout=30)
            row.comes_to_say(daemon)
            ballast.unlink()
            committed(daemon, [1])
    finally:
        daemon.stop()


@line("saves reach *local*, and no step is committed any more: hung")
def hung(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.xfs("400M")
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1)).wait("committed", timeout=30)
            mounts.freeze(where)
            checkpointer.save(2, state(2)).wait("local", timeout=30)
            row.comes_to_say(daemon)
            mounts.thaw(where)
            committed(daemon, [1, 2])
    finally:
        for frozen in list(mounts.frozen):
            mounts.thaw(frozen)
        daemon.stop()


@line("a tier is down after a mount was lost")
def unmounted(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.xfs("400M")
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1)).wait("committed", timeout=30)
            mounts.shut_down(where)
            save = checkpointer.save(2, state(2))
            save.wait("local", timeout=30)
            until("it is unmounted", lambda: subprocess.run(["umount", where], capture_output=True).returncode == 0, seconds=40)
            row.comes_to_say(daemon)
            mounts.mount_again(where)
            until("the tier is up", lambda: tier(daemon, "global")["state"] == "up", seconds=40)
            checkpointer.save(3, state(3)).wait("committed", timeout=40)
    finally:
        daemon.stop()


@line("one save stays in flight")
def a_rank_is_missing(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    options = {"world_size": 2, "attempt": "a"}
    with daemon.open(rank=0, **options) as first, daemon.open(rank=1, **options) as second:
        save = first.save(4, state(4))
        save.wait("staged", timeout=30)
        row.comes_to_say(daemon)
        second.save(4, state(4))
        save.wait("committed", timeout=30)


@line("a restore took an older step, or a drive reports errors")
def damaged(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon(tiers=2)
    for step in (1, 2):
        check_saves(daemon, step)
    daemon.stop()
    daemon.start()  # nothing is served from memory
    assert daemon.shared is not None
    (file,) = daemon.shared.glob("*/run/step-2.*/*.safetensors")
    with file.open("r+b") as opened:
        opened.seek(1 << 20)
        opened.write(b"damage")
    said = row.run(daemon, code=1, STEP="2")
    assert str(file) in said
    check(daemon, 2)  # the local copy serves
    check_saves(daemon, 3)
    cli(daemon, "delete", "run", "2")
    assert steps(daemon) == [1, 3]


@line("the tier fills although retention keeps few steps")
def pinned(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon(retention="{local: {keep: 2}}")
    check_saves(daemon, 1)
    cli(daemon, "pin", "run", "1")
    for step in (2, 3, 4):
        check_saves(daemon, step)
    row.run(daemon, code=0)
    cli(daemon, "unpin", "run", "1")
    check_saves(daemon, 5)
    committed(daemon, [4, 5])


@line("a node is to be taken away")
def drained(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 64)).wait("staged", timeout=30)
        row.run(daemon, code=0)
        assert steps(daemon) == [1]


@line("`cairn drain` ends with 1")
def not_drained(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        with daemon.paused("global"):
            checkpointer.save(1, state(1)).wait("local", timeout=30)
            row.run(daemon, code=1, **{"600": "1"})
        cli(daemon, "drain")
        assert steps(daemon) == [1]


@line("saves got slower")
def slower(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    (daemon.folder / "measured").mkdir()
    row.run(daemon, code=0, DIR=str(daemon.folder / "measured"), **{"1GiB": "64MiB --seconds 1"})


@line("status says `threads`")
def no_io_uring(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    """A container's filter, as Docker's default profile has it: io_uring_setup gives EPERM."""
    program = cluster.folder / "bin" / "cairnd"
    program.parent.mkdir(parents=True)
    (program.parent / "cairn").symlink_to(binary_beside("cairn"))
    program.write_text(f"#!/usr/bin/python3\nBINARY = {str(binary().resolve())!r}\n{REFUSE_IO_URING}")
    program.chmod(0o755)
    before = {name: os.environ.get(name) for name in ("CAIRND_BINARY", "CAIRN_BIN")}
    os.environ["CAIRND_BINARY"] = str(program)
    try:
        daemon = cluster.daemon()
        row.comes_to_say(daemon)
        check_saves(daemon, 1)
        daemon.stop()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    daemon.start()
    local = next(worker for worker in until("its worker is up", lambda: io_is_known(daemon)) if worker["role"] == "local")
    assert local["io"] == "io_uring"
    check(daemon, 1)


def io_is_known(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = status(daemon)["workers"]
    return found if any("io" in worker for worker in found) else []


REFUSE_IO_URING = """
import ctypes, os, platform, struct, sys
number = 425  # io_uring_setup, on every architecture
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]  # load; equal? EPERM : allow
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
header = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, header) == 0, ctypes.get_errno()  # the filter
os.execv(BINARY, [BINARY, *sys.argv[1:]])
"""


@line("an operator may not see or delete a user's run")
def not_an_operator(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be two users")
    daemon = cluster.daemon(operators="{users: [root]}")
    daemon.folder.parent.chmod(0o711)
    daemon.folder.chmod(0o711)
    check_saves(daemon, 1)
    check_saves(daemon, 2)
    row.run(daemon, code=4, user=as_nobody([]), UID="0", STEP="1")
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text().replace("users: [root]", f"users: [root, {name_of(NOBODY)}]"))
    daemon.start()
    command = [*as_nobody([]), str(binary_beside("cairn")), "delete", "0/run", "1", "--socket", daemon.socket]
    assert subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    assert steps(daemon) == [2]


def name_of(uid: int) -> str:
    import pwd

    return pwd.getpwuid(uid).pw_name


@line("training went wrong from some step on")
def back(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    for step in (1, 2):
        check_saves(daemon, step)
    row.run(daemon, code=0, STEP="1", NEW="colder")
    into = state(0)
    with daemon.open("colder") as checkpointer:
        assert checkpointer.restore(into) == 1


@line("a rank says *AttemptEnded*")
def two_launches(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    with daemon.open() as older:
        older.save(1, state(1)).wait("committed", timeout=30)
        with daemon.open() as newer:
            newer.save(2, state(2)).wait("committed", timeout=30)
            with pytest.raises(cairn.CairnError):
                older.save(3, state(3)).wait("committed", timeout=30)
            row.run(daemon, code=0)
    assert steps(daemon) == [1, 2]


@line("a worker died")
def worker_died(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    daemon = cluster.daemon()
    check_saves(daemon, 1)
    os.kill(daemon.workers()["local"], signal.SIGKILL)
    row.run(daemon, code=0)
    until("it is started again", lambda: any(worker["restarts"] for worker in status(daemon)["workers"]))
    check_saves(daemon, 2)


@line("one of several drives died")
def one_drive(row: Line, cluster: Cluster, mounts: Mounts) -> None:
    drives = [mounts.xfs("400M", name="first") / "cairn", mounts.xfs("400M", name="second") / "cairn"]
    daemon = with_paths(cluster.daemon(tiers=2), drives)
    try:
        with daemon.open() as checkpointer:
            for step in (1, 2, 3):
                checkpointer.save(step, state(step)).wait("committed", timeout=30)
            mounts.shut_down(drives[0].parent)
            row.comes_to_say(daemon)
            checkpointer.save(4, state(4)).wait("committed", timeout=30)
            unmount(drives[0].parent, seconds=40)
            until("the tier is up with one drive", lambda: tier(daemon, "local")["state"] == "up", seconds=40)
            mounts.mount_again(drives[0].parent)

            def both_are_used() -> bool:
                checkpointer.save(next(numbers), state(1)).wait("committed", timeout=30)
                return any(file.stat().st_mtime > begin for file in drives[0].rglob("*.safetensors"))

            numbers, begin = itertools.count(5), time.time()
            until("the drive is used again", both_are_used, seconds=40)
    finally:
        daemon.stop()


def scheduler(name: str, daemon: Daemon, **environment: str) -> int:
    """The exit code of a script of Config/slurm, as slurmd runs it."""
    path = f"{binary_beside('cairn').parent}:{os.environ['PATH']}"
    given = {"PATH": path, "CAIRN_SOCKET": daemon.socket, "SLURM_JOB_ID": "7"} | environment
    return subprocess.run([ROOT / "Config" / "slurm" / name], env=given, capture_output=True, timeout=60).returncode


def test_slurms_scripts_and_the_commands_of_the_daemon_set(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    assert scheduler("prolog.sh", daemon) == 0
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 32)).wait("staged", timeout=30)
        assert scheduler("epilog.sh", daemon) == 0
        assert steps(daemon) == [1]
        with daemon.paused("global"):
            checkpointer.save(2, state(2)).wait("local", timeout=30)
            assert scheduler("epilog.sh", daemon, CAIRN_EPILOG_LIMIT="1") == 0  # a node is not taken out of service for that
    manifest = (ROOT / "Config" / "kubernetes" / "cairnd.yaml").read_text()
    found = re.findall(r"command: \[(cairn, .*), --socket, /run/cairn/cairn.sock\]", manifest)
    assert len(found) == 2
    for words in found:
        cli(daemon, *[word.strip(' "') for word in words.split(",")[1:]])
    daemon.config.with_name("pod.yaml").write_text(
        "\n".join(line.removeprefix("    ") for line in manifest.partition("cairnd.yaml: |\n")[2].partition("---")[0].splitlines())
    )
    subprocess.run([binary(), "--check", "--config", daemon.config.with_name("pod.yaml")], check=True, timeout=20)
    daemon.stop()
    assert scheduler("prolog.sh", daemon) == 1
