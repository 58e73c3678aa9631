"""How a daemon starts: with nothing said, with something wrong said, beside another one, and under systemd."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine import NOBODY, as_nobody, until
from real_daemon import Cluster, binary

import cairn

GOOD = "tiers: {{local: {{paths: [{folder}/local]}}}}\npool: {{size: 128MiB}}\nsocket: {folder}/s\n"


def refused(folder: Path, text: str, code: int, *arguments: str, nobody: bool = False) -> str:
    """What a daemon that cannot start says."""
    config = folder / "c.yaml"
    config.write_text(text)
    config.chmod(0o644)
    command = [str(binary()), "--config", str(config), *arguments]
    done = subprocess.run(as_nobody(command) if nobody else command, capture_output=True, text=True, timeout=20)
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stderr


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextlib.contextmanager
def running(command: list[str], log: Path, listening: Path, environment: dict[str, str], **options: Any) -> Iterator[Any]:
    """A daemon that its command and environment alone configure; SIGTERM ends it, which must do."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True, **options)
    try:
        until("it listens", lambda: process.poll() is not None or listens(listening))
        assert process.poll() is None, log.read_text()
        yield process
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(20)


def save_and_restore(path: Path) -> None:
    state = {"a": np.arange(1 << 20, dtype=np.float32), "step": 7}
    with cairn.Checkpointer("run", socket=str(path), attempt=secrets.token_hex(8)) as checkpointer:
        checkpointer.save(7, state).wait("committed", timeout=30)
    into: dict[str, Any] = {"a": np.zeros(1 << 20, dtype=np.float32)}
    with cairn.Checkpointer("run", socket=str(path), attempt=secrets.token_hex(8)) as checkpointer:
        assert checkpointer.restore(into) == 7
    assert np.array_equal(into["a"], state["a"])
    assert into["step"] == 7


@pytest.mark.parametrize("user", ["this user", "nobody"])
def test_a_plain_daemon_in_an_empty_home_serves_a_save_and_a_restore(folder: Path, user: str) -> None:
    home = folder / "home"
    home.mkdir()
    command = [str(binary())]
    if user == "nobody":
        command = as_nobody(command)
        folder.chmod(0o755)
        if os.getuid() == 0:
            os.chown(home, NOBODY, NOBODY)
    path = home / ".local/state/cairn/cairn.sock"
    with running(command, folder / "log", path, {"HOME": str(home), "PATH": os.environ["PATH"]}):
        save_and_restore(path)
    assert not path.exists()
    assert list((home / ".local/state/cairn/checkpoints").glob("*/run/step-7.*/rank-00000.safetensors"))


def test_a_second_daemon_on_the_same_socket_or_folder_is_refused(cluster: Cluster, folder: Path) -> None:
    first = cluster.daemon()
    text = refused(folder, first.config.read_text(), 1)
    assert "another cairnd serves" in text
    assert first.socket in text
    other = GOOD.format(folder=folder).replace(f"{folder}/local", str(first.local))
    text = refused(folder, other, 1)
    assert f"another cairnd uses '{first.local}'" in text
    assert not (folder / "s").exists()
    save_and_restore(Path(first.socket))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("tiers: {local: {paths: [/t/l]}}\npol: {}\n", ":2:1", "pol"),
        ("tiers:\n  local: {path: /t/l}\n", ":2:11", "path"),
        ("tiers:\n  local:\n    paths: [relative]\n", ":3:13", "relative"),
        ("pool: {size: 3GB}\ntiers: {local: {paths: [/t/l]}}\n", ":1:14", "3GB"),
        ("tiers: {}\n", ":1:8", "local"),
        ("tiers: [\n", "c.yaml", "YAML"),
        ("", ":1:1", "empty"),
    ],
)
def test_a_wrong_configuration_is_named_by_line_and_column(folder: Path, text: str, place: str, what: str) -> None:
    said = refused(folder, text, 2)
    assert said.startswith(f"cairnd: {folder}/c.yaml"), said
    assert place in said, said
    assert what in said, said
    assert said.count("\n") <= 2, said


def test_wrong_arguments_end_with_two(folder: Path) -> None:
    for arguments in (["--nonsense"], ["--config"], ["--config", f"{folder}/none.yaml"]):
        done = subprocess.run([str(binary()), *arguments], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2, done
        assert "cairnd: " in done.stderr
    for argument in ("--help", "--version"):
        done = subprocess.run([str(binary()), argument], capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([str(binary()), "--check", "--config", "/dev/null"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2


def test_a_tier_whose_mount_is_missing_is_refused(folder: Path) -> None:
    said = refused(folder, GOOD.format(folder=folder).replace(f"{folder}/local", f"{folder}/nothing/mounted/here"), 1)
    assert f"{folder}/nothing/mounted/here" in said
    assert "mount" in said
    assert not (folder / "nothing").exists()


def test_a_tier_that_is_not_writable_is_refused(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "local").mkdir(mode=0o755)
    text = GOOD.format(folder=folder).replace(f"socket: {folder}/s", f"socket: {folder}/open/s")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    if os.getuid() != 0:
        (folder / "local").chmod(0o555)
    said = refused(folder, text, 1, nobody=True)
    assert f"{folder}/local" in said
    assert "EACCES" in said or "ermission" in said, said
    assert not (folder / "open/s").exists()


def notifications(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(20)
    return made


def told(notify: socket.socket, what: str) -> list[str]:
    """The notice that says ``what``; what comes before it (memory to keep, how the start goes) is passed over."""
    while True:
        lines = notify.recv(4096).decode().splitlines()
        if what in lines:
            return lines


def test_systemd_is_told_ready_and_stopping(folder: Path) -> None:
    config = folder / "c.yaml"
    config.write_text(GOOD.format(folder=folder))
    with notifications(folder / "n") as notify:
        environment = os.environ | {"NOTIFY_SOCKET": str(folder / "n")}
        begin = time.monotonic()
        with running([str(binary()), "--config", str(config)], folder / "log", folder / "s", environment) as process:
            lines = told(notify, "READY=1")
            assert any(line.startswith("STATUS=") for line in lines)
            assert time.monotonic() - begin < 10
            process.terminate()
            told(notify, "STOPPING=1")


def sockets(folder: Path) -> list[socket.socket]:
    made = []
    for name in ("s", "s.memory"):
        made.append(socket.socket(socket.AF_UNIX))
        made[-1].bind(str(folder / name))
        made[-1].listen(128)
    return made


def test_sockets_of_systemd_are_taken_and_left(folder: Path) -> None:
    """Connections that came before the daemon are served, and the sockets' paths stay for the next start."""
    config = folder / "c.yaml"
    config.write_text(GOOD.format(folder=folder))
    passed = sockets(folder)
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(20)
        early.connect(str(folder / "s"))
        early.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')
        # A shell makes LISTEN_PID its own, then becomes the daemon.
        script = f'exec 3<&{passed[0].fileno()} 4<&{passed[1].fileno()}; LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"'
        command = ["bash", "-c", script, "bash", str(binary()), "--config", str(config)]
        descriptors = [one.fileno() for one in passed]
        for _ in range(2):
            with running(command, folder / "log", folder / "s", dict(os.environ), pass_fds=descriptors):
                if early.fileno() >= 0:
                    assert b"dev.cairn.Checkpoint" in early.recv(1 << 16)
                    early.close()
                save_and_restore(folder / "s")
            assert (folder / "s").exists()
            assert (folder / "s.memory").exists()
            shutil.rmtree(folder / "local")
    for one in passed:
        one.close()


def test_socket_activation_by_systemds_own_tool(folder: Path) -> None:
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("systemd-socket-activate is not here")
    config = folder / "c.yaml"
    config.write_text(GOOD.format(folder=folder))
    listen = ["-l", str(folder / "s"), "-l", str(folder / "s.memory")]
    command = ["systemd-socket-activate", *listen, str(binary()), "--config", str(config)]
    with running(command, folder / "log", folder / "s", dict(os.environ)):
        save_and_restore(folder / "s")


def test_sockets_other_than_configured_are_refused(folder: Path) -> None:
    config = folder / "c.yaml"
    config.write_text(GOOD.format(folder=folder).replace(f"socket: {folder}/s", f"socket: {folder}/other"))
    passed = sockets(folder)
    script = f'exec 3<&{passed[0].fileno()} 4<&{passed[1].fileno()}; LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(binary()), "--config", str(config)],
        pass_fds=[one.fileno() for one in passed], capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{folder}/other" in done.stderr
    assert "ListenStream=" in done.stderr
    for one in passed:
        one.close()


@pytest.mark.parametrize("journal", [True, False])
def test_lines_carry_priorities_in_the_journal_and_times_elsewhere(folder: Path, journal: bool) -> None:
    config = folder / "c.yaml"
    config.write_text(GOOD.format(folder=folder))
    log = folder / "log"
    log.touch()
    environment = dict(os.environ)
    if journal:
        environment["JOURNAL_STREAM"] = f"{log.stat().st_dev}:{log.stat().st_ino}"
    else:
        environment["JOURNAL_STREAM"] = "1:1"  # of a service that this daemon's standard error does not go to
    with running([str(binary()), "--config", str(config)], log, folder / "s", environment):
        until("it says ready", lambda: "ready after" in log.read_text())
    lines = log.read_text().splitlines()
    assert lines
    for line in lines:
        assert line.startswith(("<3>", "<4>", "<5>", "<6>")) if journal else line[:2] == "20" and line[10] == "T", line
