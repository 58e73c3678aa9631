"""What `make install` puts beside the programs: man pages that name every command, option and key, and completion of both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import binary_beside
from real_daemon import ROOT, binary, short_folder


@pytest.fixture(scope="module")
def share() -> Iterator[Path]:
    """The installed /usr/share."""
    folder = short_folder()
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX")}
    environment["CAIRN_BIN"] = str(binary().resolve().parent)
    run("make", "--silent", "install", f"DESTDIR={folder}", "SYSCONFDIR=/etc", "PREFIX=/usr", cwd=ROOT, env=environment)
    yield folder / "usr" / "share"
    shutil.rmtree(folder)


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert isinstance(done.stdout, str)
    return done.stdout


def page(share: Path, name: str) -> str:
    """As a reader sees it, in one line."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100"}
    shown = run("man", "-l", share / "man" / f"man{name[-1]}" / name, env=environment)
    return " ".join(re.sub(r".\x08|\x1b\[\d*m", "", shown).split())


def help_of(*command: str) -> str:
    return run(binary_beside("cairn"), *command, "--help")


def commands() -> list[str]:
    listed = help_of().partition("SUBCOMMANDS:")[2]
    found = re.findall(r"^  ([a-z]+) ", listed, re.M)
    assert {"status", "ls", "drain"} <= set(found)
    return found


def test_each_command_and_option_is_in_its_page(share: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    shown = page(share, "cairn.1")
    for command in commands():
        assert f"cairn {command} " in shown
        section = shown.split(f" cairn {command} cairn {command} ", 1)[1]
        for option in re.findall(r"^  .*?(--[a-z][\w-]*)", help_of(command), re.M):
            assert option in section, f"{option} of {command}"
    shown = page(share, "cairnd.8")
    for option in re.findall(r"--[a-z]+", run(binary(), "--help")):
        assert option in shown


def test_each_key_that_the_daemon_knows_is_in_the_page(share: Path, folder: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    shown = page(share, "cairnd.yaml.5")

    def known(section: str) -> list[str]:
        """The daemon names the keys that may stand where an unknown one does; none where nothing stands below."""
        text = "" if section.startswith("tiers") else "tiers: {local: {paths: [/t]}}\n"
        indentation = ""
        for part in section.split(".") if section else []:
            text += f"{indentation}{part}:\n"
            indentation += "  "
        (folder / "c.yaml").write_text(f"{text}{indentation}no_such_key: 1\n")
        command = [binary(), "--check", "--config", folder / "c.yaml"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stderr
        listed = re.search(r"unknown key 'no_such_key' .*Known keys here: ([\w, ]+)", said)
        return listed[1].split(", ") if listed else []

    waiting, seen = [""], []
    while waiting:
        section = waiting.pop()
        for key in known(section):
            path = f"{section}.{key}".removeprefix(".")
            seen.append(path)
            waiting.append(path)
    assert {"socket", "tiers.local.paths", "tiers.global.compression", "limits.fence"} <= set(seen)
    inner = [path for path in seen if not any(other.startswith(path + ".") for other in seen)]
    assert [path for path in inner if f" {path}: " not in shown] == []


def test_the_pages_are_sound(share: Path) -> None:
    pages = [share / "man" / part for part in ("man1/cairn.1", "man5/cairnd.yaml.5", "man8/cairnd.8", "man8/cairnd.service.8")]
    if shutil.which("mandoc"):
        run("mandoc", "-Tlint", "-W", "warning", *pages)
    if shutil.which("man"):
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
        for found in pages:
            command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(found)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, "")
    for linked in ("cairnd.socket.8", "cairnd@.service.8"):
        assert (share / "man" / "man8" / linked).read_text() == ".so man8/cairnd.service.8\n"


def test_completion_knows_each_command(share: Path) -> None:
    bash = share / "bash-completion" / "completions" / "cairn"
    run("bash", "-n", bash)
    for script in (bash, share / "zsh" / "site-functions" / "_cairn", share / "fish" / "vendor_completions.d" / "cairn.fish"):
        assert [command for command in commands() if command not in script.read_text()] == []
    typed = "COMP_WORDS=(cairn dr) COMP_CWORD=1 COMP_LINE='cairn dr' COMP_POINT=8"
    assert run("bash", "-c", f"source {bash}; {typed}; _cairn cairn dr cairn; echo ${{COMPREPLY[@]}}").split() == ["drain"]
