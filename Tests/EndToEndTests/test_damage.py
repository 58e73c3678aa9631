"""A byte, or a whole file, that is not what was written: anywhere on either tier. A launch then gets the right bytes, of the newest
step or of an older one, and nothing else; the daemon lives on; `cairn verify` names the file.

Many runs are damaged at once, each in one place, and then asked for by one daemon: a case costs a few tenths of a second.
CAIRN_DAMAGE_CASES asks for more of them (`make damage`)."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from damage import BRANCH, NEWEST, OLDER, VOID, Damage, Kind, table
from machine import NOBODY, as_nobody, binary_beside, status
from real_daemon import Cluster, Daemon, binary
from wire_ranks import Restored, open_all, restore, save_steps

CASES = int(os.environ.get("CAIRN_DAMAGE_CASES", "320"))
SEED = int(os.environ.get("CAIRN_DAMAGE_SEED", "1"))
RUNS = 40
"""Damaged at once."""
SECONDS = 40.0
"""For one answer, on a machine that does much else."""


@dataclass
class Case:
    """One damage to one run. ``alone``: the local tier has nothing of it; ``live``: the daemon had read it before;
    ``undecided``: the newest step lacks only its commit, as after a crash at that moment."""

    run: str
    kind: Kind
    damage: Damage
    alone: bool
    live: bool
    undecided: bool
    path: Path = Path()
    changed: bool = False
    problems: list[str] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)

    def __str__(self) -> str:
        how = [how for how in ("alone", "live", "undecided") if getattr(self, how)]
        return f"{self.run}: {self.kind}: {self.damage.name} ({' '.join(how)})"

    def hurt(self, tiers: dict[str, Path]) -> None:
        run = tiers[self.kind.tier] / "0" / self.run
        self.path = self.kind.find(run)
        if self.undecided:
            self.path = without_commit(run) / self.path.name
        before = self.path.read_bytes()
        self.damage.do(self.path)
        opens = self.path.is_file() and not self.path.is_symlink() and self.path.stat().st_mode & 0o400 != 0
        self.changed = not opens or self.path.read_bytes() != before

    def expect(self, what: bool, problem: str) -> None:
        if not what:
            self.problems.append(problem)

    def read(self, daemon: Daemon) -> None:
        """Before it is damaged."""
        restore(daemon, self.run, 2, f"{self.run} last", first=2)

    def ask(self, daemon: Daemon, verify_first: bool) -> None:
        begin = time.monotonic()
        done = cairn(daemon, "ls", self.run)
        self.expect(done.returncode == 0, f"ls ended with {done.returncode}: {done.stderr}")
        if verify_first and not self.undecided:
            self.verify(daemon)
        if not self.undecided:
            self.go_on(daemon)
        # Another launch: as many ranks as before, each with its own part; and one that takes all, cut otherwise.
        for world in (2, 1):
            found = restore(daemon, self.run, world)
            self.restored.append(found)
            self.expect(found.step in self.allowed, f"a world of {world} got {found}, not a step of {sorted(self.allowed)}")
        if not verify_first and not self.undecided:
            self.verify(daemon)
        self.expect(time.monotonic() - begin < SECONDS, f"it took {time.monotonic() - begin:.1f} s")

    def go_on(self, daemon: Daemon) -> None:
        """The launch that was there last restores again, unless what its ranks agreed is lost."""
        found = restore(daemon, self.run, 2, f"{self.run} last", first=3 if self.live else 2)
        if self.kind.name in ("newest attempt", "choice", "settled", "verdict"):
            self.expect(found.step == NEWEST or found.error != "", f"the last launch got {found}")
        else:
            self.expect(found.step in self.allowed, f"the last launch got {found}, not a step of {sorted(self.allowed)}")
        self.restored.append(found)

    @property
    def allowed(self) -> set[int]:
        """Where a whole copy of the newest step is, it must be found; else the older one is."""
        if not self.changed or self.kind.tier == "local" or not self.kind.of_step:
            return {NEWEST}
        if not self.alone or self.kind.copied:
            return {NEWEST}
        # What was open before it was damaged may still be good.
        return {OLDER, NEWEST} if self.live else {OLDER}

    def verify(self, daemon: Daemon) -> None:
        done = cairn(daemon, "verify", self.run, str(NEWEST))
        said = done.stdout + done.stderr
        if self.changed and self.kind.of_step and (self.kind.name, self.damage.name) != ("copy of a commit", "missing"):
            self.expect(done.returncode == 1 and str(self.path) in said, f"verify ended with {done.returncode} and says: {said}")
        elif not self.changed:
            self.expect(done.returncode == 0, f"verify ended with {done.returncode} and says: {said}")


def without_commit(run: Path) -> Path:
    """The newest step as a save whose ranks have all published, before anybody decided it."""
    (step,) = run.glob(f"step-{NEWEST}.*")
    for name in (f"attempts/000001/1-{NEWEST}-1.json", f"{step.name}/checkpoint.json", f"{step.name}/pin"):
        (run / name).unlink()
    for name in ("layout-*.json", "manifests-*.bin"):
        next(step.glob(name)).unlink()
    return step.rename(run / f".saving-1-{NEWEST}-1")


def cairn(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(binary_beside("cairn")), *arguments, "--socket", daemon.socket], capture_output=True, text=True, timeout=2 * SECONDS
    )


def history(daemon: Daemon, run: str) -> None:
    """Three committed steps, the newest pinned, then one that rank 1 never makes and the next launch voids."""
    save_steps(daemon, run, list(range(1, NEWEST + 1)))
    ranks = open_all(daemon, run, 2, f"{run} again")
    ranks[0].save(VOID)
    save = ranks[0].receive()["save"]
    ranks[0].call("Wait", save=save, level="global", timeoutMs=30_000)
    for rank in ranks:
        rank.close()
    restore(daemon, run, attempt=f"{run} last")
    assert cairn(daemon, "pin", run, str(NEWEST)).returncode == 0


class World:
    """A daemon of a user without rights on many runs of one history, which are put back before each round."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, make: Callable[[Daemon, str], None] = history) -> None:
        self.daemon = cluster.daemon(tiers=2, retention="{local: {keep: 10}, global: {keep: 10}}")
        self.runs = [f"run{number}" for number in range(RUNS)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda run: make(self.daemon, run), ["other", *self.runs]))
        self.daemon.stop()
        self.template = cluster.folder / "template"
        self.template.mkdir()
        self.tiers = {"local": self.daemon.local, "global": self.daemon.tier}
        for name, folder in self.tiers.items():
            folder.rename(self.template / name)
        (self.template / "local" / ".cairnd.lock").unlink()
        if os.getuid() == 0:
            # Root reads what nobody may read.
            script = cluster.folder / "cairnd"
            script.write_text(f'#!/bin/sh\nexec {" ".join(as_nobody([str(binary())]))} "$@"\n')
            script.chmod(0o755)
            script.with_name("cairn").symlink_to(binary_beside("cairn"))
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(cluster.folder)], check=True)
            monkeypatch.setenv("CAIRND_BINARY", str(script))

    def round(self, cases: list[Case]) -> None:
        for name, folder in self.tiers.items():
            shutil.rmtree(folder, ignore_errors=True)
            # Hard links: what a case damages it copies before.
            subprocess.run(["cp", "-al", str(self.template / name), str(folder)], check=True)
        for case in cases:
            if case.alone:
                shutil.rmtree(self.tiers["local"] / "0" / case.run)
            if not case.live:
                case.hurt(self.tiers)
        self.daemon.start()
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            live = [case for case in cases if case.live]
            list(pool.map(lambda case: case.read(self.daemon), live))
            for case in live:
                case.hurt(self.tiers)
            list(pool.map(lambda case: case.ask(self.daemon, case.run[-1] in "02468"), cases))
        found = status(self.daemon)
        lost = [worker for worker in found["workers"] if worker["restarts"] or worker["state"] != "up"]
        assert not lost, f"workers that ended: {lost}: {[str(case) for case in cases]}: {self.daemon.log.read_text()[-3000:]}"
        assert self.daemon.stop() == 0


def cases(world: World, chance: random.Random) -> Iterator[Case]:
    damages = table(world.template, chance)
    for number, (kind, damage) in enumerate(itertools.islice(damages, CASES)):
        alone = kind.tier == "global" and chance.random() < 0.6
        undecided = alone and kind.name in ("data", "checksums", "manifest") and chance.random() < 0.3
        live = not undecided and chance.random() < 0.25
        yield Case(world.runs[number % RUNS], kind, damage, alone=alone, live=live, undecided=undecided)


@dataclass
class BranchCase(Case):
    """One damage to the record that a run began as a branch."""

    def read(self, daemon: Daemon) -> None:
        restore(daemon, self.run, origin=ORIGIN)

    def ask(self, daemon: Daemon, verify_first: bool) -> None:
        done = cairn(daemon, "ls", self.run)
        self.expect(done.returncode == 0, f"ls ended with {done.returncode}: {done.stderr}")
        if verify_first:
            self.verify(daemon)
        # Who asks for the same branch again gets it; another step is refused, and nothing of it is linked. A record that is lost is
        # written anew then, from its copy in the first step.
        done = cairn(daemon, "branch", f"{ORIGIN}@{NEWEST}", self.run)
        self.changed = self.changed and self.damage.name != "missing"
        self.expect(done.returncode == 0, f"the same branch again ended with {done.returncode}: {done.stderr}")
        done = cairn(daemon, "branch", f"{ORIGIN}@{OLDER}", self.run)
        self.expect(done.returncode == 4 and "began as a branch" in done.stderr, f"another branch: {done.returncode} {done.stderr}")
        self.expect(not list((daemon.tier / "0" / self.run).glob(".saving-*")), "something was left of another branch")
        for world in (2, 1):
            found = restore(daemon, self.run, world, origin=ORIGIN)
            self.restored.append(found)
            self.expect(found.step == NEWEST, f"a world of {world} got {found}")
        if not verify_first:
            self.verify(daemon)
        # Without its first step nothing says any more how it began, and that is told.
        (step,) = (daemon.tier / "0" / self.run).glob("step-*")
        step.rename(step.with_name(".gone-1.step"))
        done = cairn(daemon, "branch", f"{ORIGIN}@{NEWEST}", self.run)
        as_expected = done.returncode == 4 and str(self.path) in done.stderr if self.changed else done.returncode == 0
        self.expect(as_expected, f"without its first step: {done.returncode} {done.stderr}")


ORIGIN = "origin"


def branch(daemon: Daemon, run: str) -> None:
    """The origin's newest step under another name, restored once; the first to come makes the origin."""
    with ORIGIN_LOCK:
        if not (daemon.tier / "0" / ORIGIN).exists():
            save_steps(daemon, ORIGIN, list(range(1, NEWEST + 1)))
    done = cairn(daemon, "branch", f"{ORIGIN}@{NEWEST}", run)
    assert done.returncode == 0, done.stderr
    assert restore(daemon, run, origin=ORIGIN).step == NEWEST


ORIGIN_LOCK = threading.Lock()


def test_no_damage_to_a_branch_s_record_gives_wrong_bytes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(cluster, monkeypatch, branch)
    chance = random.Random(SEED)
    damages = itertools.islice(table(world.template, chance, [BRANCH]), max(RUNS, CASES // 4))
    given = [
        BranchCase(world.runs[number % RUNS], kind, damage, alone=False, live=chance.random() < 0.5, undecided=False)
        for number, (kind, damage) in enumerate(damages)
    ]
    problems: list[str] = []
    for first in range(0, len(given), RUNS):
        world.round(given[first : first + RUNS])
        problems += [f"{case}: {problem}" for case in given[first : first + RUNS] for problem in case.problems]
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)


def test_no_damage_gives_wrong_bytes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(cluster, monkeypatch)
    told: collections.Counter[tuple[str, str]] = collections.Counter()
    problems: list[str] = []
    given = cases(world, random.Random(SEED))
    while batch := list(itertools.islice(given, RUNS)):
        world.round(batch)
        for case in batch:
            problems += [f"{case}: {problem}" for problem in case.problems]
            for found in case.restored:
                told[str(case.kind), f"step {found.step}" if found.step else found.error.partition(" ")[0]] += 1
            told[str(case.kind), "damaged"] += case.changed
    with capsys.disabled():
        print(f"\n{CASES} damages, seed {SEED}; restores by what they gave")
        for kind in dict.fromkeys(name for name, _ in told):
            print(f"  {kind:28}" + "".join(f"  {what}: {told[kind, what]}" for _, what in sorted(told) if _ == kind))
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)
