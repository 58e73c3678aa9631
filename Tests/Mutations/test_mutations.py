"""The simulation has teeth: each of a list of mistakes (mutations.py) is caught by it, by the invariant that it breaks, and without
a mistake the same seeds hold.

The modules are compiled as they are, once; a mistake changes the inside of one module's functions, so that only that module is
compiled again and linked with the others. The changed one is not optimized: compiling would take longer than running the few seeds
that are needed.

Environment: CAIRN_MUTATION_SEEDS, how many seeds a mistake has to be caught in (default 400); CAIRN_MUTATION, only those whose name
contains this.
"""

import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .mutations import ENGINE, MUTATIONS, SIMULATION, Mutation

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("CAIRN_MUTATION_SEEDS", "400"))
MODULES = {"CairnModel": "Sources", "CairnMessages": "Sources", ENGINE: "Sources", SIMULATION: "Tests"}
MAIN = "cairn_simulate"
SECONDS = 180


class NotBuilt(Exception):
    """A module does not compile; with the compiler's words."""


def compile_module(folder: Path, name: str, sources: list[Path], out: Path, optimize: bool, emits: bool) -> None:
    command = ["swiftc", "-wmo", "-O" if optimize else "-Onone", "-assert-config", "Debug", "-swift-version", "6",
               "-I", str(folder / "modules"), "-module-name", name, *map(str, sources), "-c", "-o", str(out)]
    if name != MAIN:
        command.append("-parse-as-library")
    if emits:
        command += ["-emit-module", "-emit-module-path", str(folder / "modules" / f"{name}.swiftmodule")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode != 0:
        raise NotBuilt("\n".join(line for line in done.stderr.splitlines() if "error:" in line) or done.stderr)


def link(objects: list[Path], out: Path) -> None:
    command = ["swiftc", *map(str, objects), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources and each module's object, unchanged."""
    folder = tmp_path_factory.mktemp("mutations")
    (folder / "modules").mkdir()
    for name, where in MODULES.items():
        shutil.copytree(ROOT / where / name, folder / name)
    shutil.copytree(ROOT / "Tests" / "Simulate", folder / MAIN)
    for name in [*MODULES, MAIN]:
        sources = sorted((folder / name).glob("*.swift"))
        compile_module(folder, name, sources, folder / f"{name}.o", optimize=True, emits=name != MAIN)
    link([folder / f"{name}.o" for name in [*MODULES, MAIN]], folder / "unchanged")
    return folder


def run(binary: Path, seeds: range, first: bool) -> tuple[int, str]:
    command = [str(binary), "--seeds", f"{seeds[0]}..{seeds[-1]}", "--jobs", "1", "--no-shrink"]
    command += ["--stop-at-first"] if first else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.returncode, done.stdout


def mutate(folder: Path, mutation: Mutation, number: int) -> Path:
    own = folder / f"mutated-{number}"
    shutil.copytree(folder / mutation.module, own)
    file = own / mutation.file
    text = file.read_text()
    found = text.count(mutation.old)
    assert found == 1, (f"'{mutation.name}': its text is in {mutation.file} {found} times; "
                        "the list follows the code: change the mutation too")
    file.write_text(text.replace(mutation.old, mutation.new))
    changed = folder / f"mutated-{number}.o"
    try:
        compile_module(folder, mutation.module, sorted(own.glob("*.swift")), changed, optimize=False, emits=False)
    except NotBuilt as error:
        pytest.fail(f"'{mutation.name}' does not compile: {error}")
    # In a folder of its own: the linker leaves a file of a fixed name beside what it makes.
    (folder / f"binary-{number}").mkdir()
    binary = folder / f"binary-{number}" / "cairn-simulate"
    link([changed if name == mutation.module else folder / f"{name}.o" for name in [*MODULES, MAIN]], binary)
    shutil.rmtree(own)
    changed.unlink()
    return binary


def caught(folder: Path, numbered: tuple[int, Mutation]) -> tuple[Mutation, str, float, str]:
    """The first violation, or why there is none."""
    number, mutation = numbered
    begin = time.monotonic()
    try:
        binary = mutate(folder, mutation, number)
    except (AssertionError, pytest.fail.Exception) as error:
        return mutation, "", time.monotonic() - begin, str(error)
    try:
        _, output = run(binary, range(mutation.first, mutation.first + SEEDS), first=True)
    except subprocess.TimeoutExpired:
        return mutation, "", time.monotonic() - begin, f"'{mutation.name}' is not caught in {SECONDS} s"
    finally:
        binary.unlink()
    found = re.search(r"^seed (\d+): (.*)$", output, re.MULTILINE)
    if not found:
        return mutation, "", time.monotonic() - begin, f"'{mutation.name}' is not caught in {SEEDS} seeds"
    reason = found.group(2)
    if not reason.startswith(mutation.invariant):
        wrong = f"'{mutation.name}' is caught as '{found.group(0)}', not by {mutation.invariant}"
        return mutation, found.group(0), time.monotonic() - begin, wrong
    return mutation, found.group(0), time.monotonic() - begin, ""


def test_each_mistake_is_caught_and_none_is_seen_without(built: Path) -> None:
    assert len(MUTATIONS) >= 18
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    wanted = [mutation for mutation in MUTATIONS if os.environ.get("CAIRN_MUTATION", "") in mutation.name]
    begin = time.monotonic()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as threads:
        results = list(threads.map(lambda numbered: caught(built, numbered), enumerate(wanted)))
    needed: dict[int, int] = {}  # by the first seed that was run, the last
    for mutation, found, seconds, wrong in results:
        print(f"{'MISSED' if wrong else 'caught'}  {seconds:5.1f} s  {mutation.name}: {wrong or found[:150]}")
        seed = re.match(r"seed (\d+):", found)
        needed[mutation.first] = max(needed.get(mutation.first, mutation.first), int(seed.group(1)) if seed else mutation.first)
    print(f"{len(results)} mistakes in {time.monotonic() - begin:.0f} s")
    assert not [wrong for *_, wrong in results if wrong]
    # Without any of them every seed that was needed holds.
    for first, last in needed.items():
        status, output = run(built / "unchanged", range(first, last + 1), first=False)
        assert status == 0, output
