"""The Debian package: installed under a real systemd, used, installed again over itself, removed and purged."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import CLONE, PYTHON, Booted
from machine import until
from real_daemon import ROOT, binary, short_folder

TRAINER = """
import sys, numpy as np, cairn
state = {"w": np.arange(1000.0)}
with cairn.Checkpointer("run", rank=0, world_size=1) as ckpt:
    if sys.argv[1] == "save":
        ckpt.save(int(sys.argv[2]), state).wait("committed", timeout=60)
    else:
        state["w"][:] = 0
        assert ckpt.restore(state) == int(sys.argv[2]) and state["w"].sum() == 499500
"""
CONFIGURATION = """pool: {size: 128MiB, chunk: 8MiB}
tiers:
  local: {paths: [/var/lib/cairn/local], reserve: 0B}
  global: {path: /var/lib/cairn/global}
"""
DATA = "/var/lib/cairn"


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    into = short_folder()
    # Compressed least: that takes seconds instead of a minute.
    environment = os.environ | {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
    environment["CAIRN_BIN"] = str(binary().resolve().parent)
    for variable in ("MAKEFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX"):
        environment.pop(variable, None)
    done = subprocess.run([ROOT / "scripts" / "deb.sh", into], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield Path(done.stdout.strip())
    for file in into.iterdir():
        file.unlink()
    into.rmdir()


def test_the_package_says_what_it_needs(package: Path) -> None:
    said = subprocess.run(["dpkg-deb", "--info", package], check=True, capture_output=True, text=True).stdout
    for library in ("libc6 (>=", "libuv1 (>=", "liburing2 (>=", "libisal2 (>=", "libzstd1 (>="):
        assert library in said
    listed = subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True).stdout
    assert all(line.split()[1] == "root/root" for line in listed.splitlines())
    for file in ("etc/cairn/cairnd.yaml", "usr/share/man/man1/cairn.1.gz", "usr/share/doc/cairn/copyright"):
        assert f" ./{file}\n" in listed


@pytest.mark.seconds(170)
def test_installed_used_upgraded_removed_and_purged(package: Path) -> None:
    with Booted() as machine:
        inside = "/root/cairn.deb"
        (machine.root / inside[1:]).write_bytes(package.read_bytes())

        def trainer(*arguments: str) -> None:
            machine.run(PYTHON, "-c", f"import sys; sys.path.insert(0, '{CLONE}/Python')\n{TRAINER}", *arguments)

        def daemon() -> int:
            pid: int = json.loads(machine.run("cairn", "status", "--json"))["daemon"]["pid"]
            return pid

        # The configuration that an administrator laid down before, as provisioning does, is not replaced.
        (machine.root / "etc" / "cairn").mkdir()
        configuration = machine.root / "etc" / "cairn" / "cairnd.yaml"
        configuration.write_text(CONFIGURATION)
        machine.run("dpkg", "--force-confold", "--no-triggers", "-i", inside, seconds=120)
        assert configuration.read_text() == CONFIGURATION
        assert machine.run("systemctl", "is-active", "cairnd.socket", "cairnd.service").split() == ["active"] * 2
        assert machine.run("systemctl", "is-enabled", "cairnd.socket", "cairnd.service").split() == ["enabled"] * 2
        machine.run("getent", "passwd", "cairn")
        machine.run("getent", "group", "cairn-ops")
        assert machine.run("stat", "-c", "%U:%G", f"{DATA}/local", f"{DATA}/global").split() == ["cairn:cairn"] * 2
        trainer("save", "3")
        assert machine.run("stat", "-c", "%U", f"/proc/{daemon()}").strip() == "cairn"
        machine.run("man", "-w", "cairn", "cairnd", "cairnd.yaml", "cairnd.socket")

        # The same version again is what dpkg does for an upgrade: the daemon is a new one, the socket is not.
        before, socket = daemon(), machine.run("stat", "-c", "%i", "/run/cairn/cairn.sock")
        machine.run("dpkg", "--no-triggers", "-i", inside, seconds=120)
        until("a new daemon", lambda: daemon() != before)
        assert machine.run("stat", "-c", "%i", "/run/cairn/cairn.sock") == socket
        assert configuration.read_text() == CONFIGURATION
        trainer("restore", "3")
        for _ in range(2):
            machine.run("/var/lib/dpkg/info/cairn.postinst", "configure", "0.1.0")

        # What an administrator disabled stays so.
        machine.run("systemctl", "disable", "--now", "cairnd.service", "cairnd.socket")
        machine.run("dpkg", "--no-triggers", "-i", inside, seconds=120)
        assert machine.run("systemctl", "is-enabled", "cairnd.service", code=1).strip() == "disabled"
        assert machine.run("systemctl", "is-active", "cairnd.service", code=3).strip() == "inactive"
        machine.run("systemctl", "enable", "--now", "cairnd.socket", "cairnd.service")

        machine.run("dpkg", "--no-triggers", "-r", "cairn")
        assert machine.run("systemctl", "is-active", "cairnd.socket", "cairnd.service", code=None).split() == ["inactive"] * 2
        assert configuration.exists()
        assert not (machine.root / "usr" / "bin" / "cairnd").exists()

        # Installed anew it has the step. Checkpoints outlive even a purge.
        machine.run("dpkg", "--no-triggers", "-i", inside, seconds=120)
        trainer("restore", "3")
        assert "was kept" in machine.run("dpkg", "--no-triggers", "-P", "cairn")
        assert not (machine.root / "etc" / "cairn").exists()
        assert machine.run("systemctl", "list-unit-files", "cairnd*", code=None).strip().endswith("0 unit files listed.")
        assert any((machine.root / DATA[1:]).rglob("*.safetensors"))

        machine.run("rm", "-r", DATA)
        machine.run("dpkg", "--no-triggers", "-i", inside, seconds=120)
        assert machine.run("systemctl", "is-active", "cairnd.socket").strip() == "active"  # the shipped configuration, too
        machine.run("dpkg", "--no-triggers", "-P", "cairn")
        for left in (DATA, "/etc/cairn", "/run/cairn", "/etc/systemd/system/multi-user.target.wants/cairnd.service"):
            machine.run("test", "!", "-e", left)
