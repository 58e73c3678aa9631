"""The wheel that carries the daemon saves and restores in an empty environment, without the clone or the libraries of Debian."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from machine import until
from real_daemon import ROOT, binary

TRAINER = ROOT / "Examples" / "quickstart" / "train.py"
STEPS = 6


def run(*command: str | Path, timeout: float = 120, **environment: str) -> str:
    words = [str(part) for part in command]
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    run(sys.executable, *command, into, ROOT, **(os.environ | {"CAIRN_BIN": str(binary().resolve().parent)}))
    (made,) = into.glob("cairn_checkpoint-*-py3-none-manylinux_2_*.whl")
    return made


@pytest.mark.seconds(150)
def test_a_trainer_with_nothing_but_the_wheel_is_killed_and_goes_on(wheel: Path, folder: Path) -> None:
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, **os.environ)
    python = venv / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel, **os.environ)
    # torch comes from where the tests have it; that folder's own .pth files are not read, so the clone is not on the path.
    libraries = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (libraries / "torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "cairnd.yaml").write_text(
        f"pool: {{size: 256MiB, chunk: 8MiB}}\ntiers:\n  local: {{paths: [{folder}/tier], reserve: 0B}}\n"
    )
    (folder / "tier").mkdir()
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "CAIRN_SOCKET": str(folder / "s"), "OMP_NUM_THREADS": "1"}
    environment["CAIRND_CONFIG"] = str(folder / "cairnd.yaml")

    def cairn(*arguments: str) -> str:
        """What the command of the environment prints, whatever its exit code."""
        command = [venv / "bin" / "cairn", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout

    try:
        straight = run(python, TRAINER, "--run", "straight", "--steps", str(STEPS), **environment).splitlines()
        command = [str(python), str(TRAINER), "--steps", str(STEPS)]
        with subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, text=True) as killed:
            assert killed.stdout is not None
            until("a step is committed", lambda: "committed" in cairn("ls", "quickstart"), seconds=60)
            killed.kill()
            seen = killed.stdout.read().splitlines()
        again = run(python, TRAINER, "--steps", str(STEPS), **environment).splitlines()
        begin = int(again[0].removeprefix("restored step "))
        assert 1 <= begin <= STEPS
        assert seen[: begin + 1] + again[1:] == straight, "the losses of a run that was never killed"

        daemon = json.loads(cairn("status", "--json"))["daemon"]["pid"]
        listed = {entry["run"]: entry["steps"] for entry in json.loads(cairn("ls", "--json"))["runs"]}
        assert max(step["step"] for step in listed["quickstart"]) == STEPS
        imported = run(python, "-c", "import cairn; print(cairn.__file__)", **environment)
        assert imported.startswith(str(libraries / "cairn"))
        assert Path(f"/proc/{daemon}/exe").readlink() == libraries / "cairn" / "bin" / "cairnd"
        mapped = {Path(line.split()[-1]) for line in Path(f"/proc/{daemon}/maps").read_text().splitlines() if "/" in line}
        for library in ("libuv", "liburing", "libzstd", "libisal"):
            (found,) = (path for path in mapped if path.name.startswith(library))
            assert found.parent == libraries / "cairn" / "bin"
    finally:
        for entry in Path("/proc").glob("[0-9]*"):
            if read(entry).split(b"\0")[1:3] == [b"--socket", os.fsencode(folder / "s")]:
                os.kill(int(entry.name), signal.SIGTERM)
                until("the daemon ended", lambda entry=entry: not read(entry))


def read(process: Path) -> bytes:
    """Its command line; nothing once it has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_both_commands_are_programs_of_the_wheel(wheel: Path) -> None:
    listing = run(sys.executable, "-m", "zipfile", "--list", wheel)
    for program in ("cairn/bin/cairnd", "cairn/bin/cairn", "cairn/programs.py"):
        assert program in listing
    for part in ("swift", "swift-argument-parser", "Yams", "libuv1", "liburing2", "libisal2", "libzstd1"):
        assert f"licenses/{part}.txt" in listing
