"""Users do not see, load, delete or disturb each other's runs, and may name them alike."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from jobs import check, state
from machine import NOBODY, as_nobody, binary_beside, cli, until
from real_daemon import Cluster, Daemon, trainer

OTHER = """
import ctypes, json, os, sys
import numpy as np
import cairn
uid = int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process that was started by this user
ckpt = cairn.Checkpointer("run", socket=sys.argv[1])
into = {"t0": np.zeros(1 << 18, dtype=np.float32)}
first = ckpt.restore(into, strict=False)
seen = ckpt.all_steps()
try:
    ckpt.delete(1)
    deleted = "yes"
except cairn.CairnError as refusal:
    deleted = type(refusal).__name__
state = {"t0": np.full(1 << 18, 77, dtype=np.float32)}
ckpt.save(5, state).wait("committed", timeout=30)
print(json.dumps([first, seen, deleted, float(into["t0"][0]), ckpt.all_steps()]), flush=True)
sys.stdin.readline()
ckpt.close()
"""


@pytest.fixture
def open_daemon(cluster: Cluster) -> Daemon:
    """Its socket is reachable by all users, its folders are not."""
    if os.getuid() != 0:
        pytest.skip("only root can be two users")
    daemon = cluster.daemon(tiers=2)
    daemon.folder.parent.chmod(0o711)
    daemon.folder.chmod(0o711)
    return daemon


def test_the_same_name_is_another_run_for_another_user(open_daemon: Daemon) -> None:
    daemon = open_daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=30)
        checkpointer.save(2, state(2)).wait("committed", timeout=30)
        other = trainer(OTHER, daemon.socket, str(NOBODY))
        output, _ = other.communicate("\n", timeout=60)
        assert other.returncode == 0
        assert output.strip() == '[null, [], "NoSuchStep", 0.0, [5]]' or output.strip() == '[null, [], "NoSuchRun", 0.0, [5]]'
        assert checkpointer.all_steps() == [1, 2]
    check(daemon, 2)
    for tier in (daemon.local, daemon.tier):
        assert {path.name for path in tier.iterdir() if path.name.isdigit()} == {"0", str(NOBODY)}


def test_the_command_line_shows_users_their_own_and_operators_all(open_daemon: Daemon) -> None:
    daemon = open_daemon
    with daemon.open() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step, 1)).wait("committed", timeout=30)
    other = trainer(OTHER, daemon.socket, str(NOBODY))
    other.communicate("\n", timeout=60)

    def nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = as_nobody([str(binary_beside("cairn")), *arguments, "--socket", daemon.socket])
        return subprocess.run(command, capture_output=True, text=True, timeout=20)

    listed = cli(daemon, "ls")
    assert f"{NOBODY}/run" in listed
    assert "77" not in nobody("ls").stdout
    assert nobody("ls").stdout.count("run") == 1
    for command in (
        "show 0/run 1",
        "path 0/run",
        "verify 0/run 1",
        "delete 0/run 1",
        "pin 0/run 1",
        "ls 0/run",
        "drain 0/run",
        "watch 0/run",
    ):
        arguments = command.split()
        done = nobody(*arguments)
        assert done.returncode == 4, (arguments, done)
        assert "no run '0/run'" in done.stderr, done.stderr
    assert nobody("drain").returncode == 4
    assert "every block is good" in nobody("verify", "run", "5").stdout
    cli(daemon, "verify", f"{NOBODY}/run", "5")
    with daemon.open() as checkpointer:
        assert checkpointer.all_steps() == [1, 2]


def test_a_user_cannot_take_another_s_session_or_files(open_daemon: Daemon) -> None:
    daemon = open_daemon
    script = """
import json, os, socket, sys
uid = int(sys.argv[2]); token = sys.argv[3]
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
def call(path, method, descriptor=None, **parameters):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10); s.connect(path)
        data = json.dumps({"method": method, "parameters": parameters}).encode() + b"\\0"
        socket.send_fds(s, [data], [descriptor] if descriptor is not None else [])
        reply = b""
        while not reply.endswith(b"\\0"):
            part = s.recv(65536)
            if not part: break
            reply += part
        return reply.decode().rstrip("\\0")
print(call(sys.argv[1], "dev.cairn.Checkpoint.Attach", session=token))
print(call(sys.argv[1] + ".memory", "dev.cairn.Checkpoint.Attach", os.open("/dev/null", os.O_RDONLY), session=token, memory=0))
for folder in sys.argv[4:]:
    try: print(os.listdir(folder))
    except PermissionError: print("refused")
"""
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=30)
        session = checkpointer._link.wait_for_session(10)
        folders = [str(tier / "0") for tier in (daemon.local, daemon.tier)]
        other = trainer(script, daemon.socket, str(NOBODY), session.id, *folders)
        output, _ = other.communicate("\n", timeout=30)
        lines = output.splitlines()
        assert "error" in lines[0], lines
        assert "error" in lines[1], lines
        assert lines[2:] == ["refused", "refused"]
        checkpointer.save(2, state(2)).wait("committed", timeout=30)


def test_an_unprivileged_daemon_reads_ranks_of_its_user_only_by_their_consent(folder: Path) -> None:
    """It may not read another user's memory by pid: that rank hands over a descriptor."""
    if os.getuid() != 0:
        pytest.skip("only root can be two users")
    folder.chmod(0o777)
    (folder / "local").mkdir()
    os.chown(folder / "local", NOBODY, NOBODY)
    config = folder / "c.yaml"
    config.write_text(f"socket: {folder}/s\npool: {{size: 128MiB}}\ntiers: {{local: {{paths: [{folder}/local]}}}}\n")
    config.chmod(0o644)
    with (folder / "log").open("wb") as log:
        command = as_nobody([str(binary_beside("cairnd")), "--config", str(config)])
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until("it listens", lambda: (folder / "s").exists() or process.poll() is not None)
        for uid in (NOBODY, NOBODY - 1):
            other = trainer(OTHER, str(folder / "s"), str(uid))
            output, _ = other.communicate("\n", timeout=60)
            assert output.strip().endswith("[5]]"), ((folder / "log").read_text(), output)
    finally:
        process.terminate()
        assert process.wait(20) == 0
