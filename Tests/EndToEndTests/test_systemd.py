"""The units under a real systemd, which the test boots: socket activation, status, reload, watchdog, restarts with the memory
kept, a user's own daemon, hardening. One boot for all of it: it takes seconds."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from booted import CLONE, PYTHON, Booted
from machine import Mounts, binary_beside, until
from real_daemon import ONLY_PYTHONS_STDOUT, ROOT, binary

SERVICE = "cairnd.service"
CONFIG = """\
socket: /run/cairn/cairn.sock
pool: {size: 512MiB}
tiers:
  local: {paths: [/var/lib/cairn/local], reserve: 0B}
  global: {path: /var/lib/cairn/global}
retention: {global: {keep: 5}}
"""
TRAINER = """
import numpy, sys, time, cairn
def state(step): return {f"t{index}": numpy.full(1 << 20, step * 1000 + index, dtype=numpy.float32) for index in range(50)}
def until(condition):
    while not condition(): time.sleep(0.05)
saves = {}
with cairn.Checkpointer("run", attempt="a" * 32) as checkpointer:
    checkpointer._link.wait_for_session(20)
    print("open", flush=True)
    for line in sys.stdin:
        what, *words = line.split()
        try:
            if what == "open":
                until(lambda: not checkpointer._link.wait_for_session(20).is_hung_up())
                print("open", flush=True)
            elif what == "save":
                saves[words[0]] = checkpointer.save(int(words[0]), state(int(words[0])))
                saves[words[0]].wait("staged", timeout=20)
                print("staged", flush=True)
            elif what == "wait":
                print(saves[words[0]].wait("committed", timeout=40).level, flush=True)
            elif what == "restore":
                into = state(0)
                step = checkpointer.restore(into)
                print(step, all((into[name] == value).all() for name, value in state(step).items()), flush=True)
        except Exception as failure:
            print(repr(failure), flush=True)
"""


class Trainer:
    """A trainer inside; what it answers to a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self._read() == "open"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


class Node(Booted):
    """With the programs and units installed as `make install` would."""

    def prepare(self) -> None:
        for program, name in ((binary(), "cairnd"), (binary_beside("cairn"), "cairn")):
            shutil.copy(program, self.root / "usr/bin" / name)
            (self.root / "usr/bin" / name).chmod(0o755)
        for unit in ("cairnd.service", "cairnd.socket", "cairnd@.service"):
            shutil.copy(ROOT / "systemd" / unit, self.root / "etc/systemd/system" / unit)
        for kind in ("sysusers", "tmpfiles"):
            (self.root / f"usr/lib/{kind}.d").mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / f"systemd/{kind}.conf", self.root / f"usr/lib/{kind}.d/cairn.conf")
        (self.root / "etc/cairn").mkdir(exist_ok=True)
        (self.root / "etc/cairn/cairnd.yaml").write_text(CONFIG)

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-p", name, "--value", unit).strip()

    def journal(self, unit: str = SERVICE) -> str:
        """What the unit's processes said since the boot."""
        return self.run("journalctl", "-u", unit, "-o", "cat", "--no-pager", code=None, seconds=30)

    def workers(self, *names: str) -> list[str]:
        """Their process ids inside."""
        return [self.run("pgrep", "-x", f"cairnd-{name}").split()[-1] for name in names]

    def trainer(self, script: str, *, user: str | None = None, socket: str = "/run/cairn/cairn.sock") -> subprocess.Popen[str]:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        variables = ["PATH=/usr/bin:/bin", f"PYTHONPATH={CLONE / 'Python'}", f"CAIRN_SOCKET={socket}", "PYTHONDONTWRITEBYTECODE=1"]
        command = self.inside(*as_user, "env", "-i", *variables, PYTHON, "-c", ONLY_PYTHONS_STDOUT + script)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def booted(mounts: Mounts) -> Iterator[Node]:
    hung = mounts.xfs("3G")
    (hung / "global").mkdir()
    with Node({hung / "global": "/var/lib/cairn/global"}) as machine:
        try:
            machine.run("systemd-sysusers", "cairn.conf")
            machine.run("systemd-tmpfiles", "--create", "cairn.conf")
            yield machine
        finally:
            for where in list(mounts.frozen):
                mounts.thaw(where)
            print(machine.journal()[-6000:])


def serves(machine: Node) -> bool:
    return "pool" in machine.run("timeout", "3", "/usr/bin/cairn", "status", code=None)


def test_the_units_under_systemd(booted: Node, mounts: Mounts) -> None:
    run = booted.run
    run("systemctl", "daemon-reload")

    # Socket activation: nothing runs before the first connection. Type=notify, with a status text.
    run("systemctl", "start", "cairnd.socket")
    assert booted.show(SERVICE, "ActiveState") == "inactive"
    until("a connection starts it", lambda: serves(booted))
    until("it says ready", lambda: booted.show(SERVICE, "StatusText") == "serving ranks on /run/cairn/cairn.sock")
    assert booted.show(SERVICE, "ActiveState") == "active"

    trainer = Trainer(booted.trainer(TRAINER))
    try:
        exercise(booted, mounts, trainer)
    finally:
        trainer.end()

    assert booted.show(SERVICE, "Result") == "success"
    assert int(booted.show(SERVICE, "NFileDescriptorStore")) == 0

    of_a_user(booted)
    for unit in (SERVICE, "cairnd@ada.service"):
        found = run("systemd-analyze", "security", "--no-pager", unit, code=None)
        exposure = float(re.findall(r"Overall exposure level for \S+: ([0-9.]+)", found)[0])
        print(f"{unit}: exposure {exposure}")
        assert exposure <= 2.0, found


def exercise(booted: Node, mounts: Mounts, trainer: Trainer) -> None:
    run = booted.run
    assert trainer.say("save 1") == "staged"
    assert trainer.say("wait 1") == "committed"

    # SIGKILL with a save that no tier has yet: the store keeps the memory, the next process commits it.
    run("kill", "-STOP", *booted.workers("local", "global"))
    assert trainer.say("save 2") == "staged"
    begin = time.monotonic()
    run("systemctl", "kill", "-s", "KILL", "--kill-who=main", SERVICE)
    until("it was restarted and serves", lambda: booted.show(SERVICE, "NRestarts") == "1" and serves(booted))
    print(f"SIGKILL: serves again after {time.monotonic() - begin:.2f} s, of which RestartSec= is 1")
    assert trainer.say("wait 2") == "committed"
    assert int(booted.show(SERVICE, "NFileDescriptorStore")) == 2
    taken = re.findall(r"took up (\d+) parts of saves, (\d+) MiB, .* in (\d+) ms", booted.journal())
    print(f"taken up: {taken}")
    assert int(taken[-1][1]) >= 400, taken

    # A restart while the parallel filesystem hangs: the old worker cannot be killed, the new process does not wait for it.
    assert trainer.say("open") == "open"
    (where,) = mounts.mounted
    mounts.freeze(where)
    assert trainer.say("save 3") == "staged"
    begin = time.monotonic()
    run("systemctl", "restart", SERVICE)
    until("it serves", lambda: serves(booted))
    seconds = time.monotonic() - begin
    print(f"restart while the global tier hangs: serves again after {seconds:.2f} s")
    assert seconds < 16
    mounts.thaw(where)
    assert trainer.say("wait 3") == "committed"
    assert trainer.say("open") == "open"
    assert trainer.say("save 4") == "staged"
    assert trainer.say("wait 4") == "committed"

    # Reload: what can change, changes; what cannot is named.
    config = booted.root / "etc/cairn/cairnd.yaml"
    text = config.read_text().replace("keep: 5", "keep: 7").replace("size: 512MiB", "size: 256MiB")
    run("sh", "-c", f"cat > /etc/cairn/cairnd.yaml <<'E'\n{text}\nE")
    run("systemctl", "reload", SERVICE)
    until("it says what it did", lambda: "reloaded: retention.global; needs a restart: pool" in booted.journal())
    run("sh", "-c", "echo 'nonsense: 1' >> /etc/cairn/cairnd.yaml")
    run("systemctl", "reload", SERVICE)
    until("it refuses what is not sound", lambda: "not reloaded, all stays as it was: /etc/cairn/cairnd.yaml" in booted.journal())
    until("it is active again", lambda: booted.show(SERVICE, "ActiveState") == "active")
    run("sh", "-c", f"cat > /etc/cairn/cairnd.yaml <<'E'\n{CONFIG}\nE")

    # The watchdog: a loop that hangs is ended and started anew, with its memory.
    dropped = "/run/systemd/system/cairnd.service.d"
    run("sh", "-c", f"mkdir -p {dropped}; printf '[Service]\\nWatchdogSec=2s\\n' > {dropped}/w.conf")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", SERVICE)
    restarts, pid = booted.show(SERVICE, "NRestarts"), booted.show(SERVICE, "MainPID")
    begin = time.monotonic()
    run("kill", "-STOP", pid)
    until("the watchdog has fired", lambda: booted.show(SERVICE, "NRestarts") != restarts and serves(booted))
    print(f"watchdog of 2 s: serves again after {time.monotonic() - begin:.2f} s")
    assert "Watchdog timeout" in run("journalctl", "-u", SERVICE, "--no-pager")
    assert trainer.say("open") == "open"
    assert trainer.say("save 5") == "staged"
    assert trainer.say("wait 5") == "committed"
    assert trainer.say("restore") == "5 True"

    # A stop drains: what is staged is committed before the process ends.
    assert trainer.say("save 6") == "staged"
    begin = time.monotonic()
    run("systemctl", "stop", SERVICE, "cairnd.socket")
    print(f"stopped in {time.monotonic() - begin:.1f} s")
    assert run("find", "/var/lib/cairn/global", "-name", "step-6.*")


def of_a_user(booted: Node) -> None:
    """`cairnd@ada`: what it writes is hers."""
    run = booted.run
    run("useradd", "--create-home", "ada")
    run("systemctl", "start", "cairnd@ada")
    socket = "/run/cairn-ada/cairn.sock"
    trainer: Any = Trainer(booted.trainer(TRAINER, user="ada", socket=socket))
    assert trainer.say("save 1") == "staged"
    assert trainer.say("wait 1") == "committed"
    trainer.end()
    owners = set(run("find", "/var/lib/cairn-ada", "-printf", "%u\n").split())
    assert owners == {"ada"}, owners
    assert "step-1." in run("find", "/var/lib/cairn-ada", "-name", "step-*")
    run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "cairnd@ada")
    until("it takes up", lambda: "took up 1 parts" in booted.journal("cairnd@ada.service"))
