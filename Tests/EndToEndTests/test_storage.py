"""Disks and filesystems that fail: full, with errors, read-only, gone, hung, and well again. Whichever of two tiers it is, the
other one goes on, whoever asks is told why, nothing that was committed is lost, and the tier comes back by itself."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs import check, state, with_global, with_paths
from machine import FaultFs, Mounts, cli, committed, leftovers, living, status, tier, unmount, until, unused
from real_daemon import Cluster

import cairn

TIERS = ["local", "global"]
RULES = [
    "write EIO",
    "write EIO 20",
    "write ENOSPC 10",
    "write EDQUOT",
    "write short",
    "fsync EIO",
    "fsync ENOSPC",
    "fsyncdir EIO",
    "create EIO",
    "create ENOSPC",
    "link EIO",
    "link ENOSPC",
    "truncate EIO",
    "unlink EIO",
    "open EIO",
    "readdir EIO",
]
"""Of files; those below are of folders, which a run makes once."""
FOLDER_RULES = ["mkdir ENOSPC", "mkdir EIO", "rename EIO"]
MEBIBYTES = 9
"""Two chunks."""


class Told:
    """Fault by tier: how often it was injected, and how many saves it cost that were to survive it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, int, int]] = []

    def add(self, fault: str, where: str, injected: int, lost: int = 0) -> None:
        self.rows.append((fault, where, injected, lost))


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    told = Told()
    yield told
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\nfault                      tier     injected  lost")
        for fault, where, injected, lost in told.rows:
            print(f"{fault:26} {where:8} {injected:8} {lost:5}")


class Site:
    """A daemon of two tiers, one of which is where a test says; the saves of one rank there."""

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.daemon = cluster.daemon(tiers=2)
        self.daemon.run = f"{name}-{len(cluster.daemons)}"
        if name == "global":
            with_global(self.daemon, folder)
        else:
            self.daemon.local = folder
            with_paths(self.daemon, [folder])
        self.checkpointer: cairn.Checkpointer = self.daemon.open()
        self.step = 0

    def save(self) -> cairn.Save:
        self.checkpointer._link.wait_for_session(40)
        self.step += 1
        return self.checkpointer.save(self.step, state(self.step, MEBIBYTES))

    def commits(self) -> None:
        self.save().wait("committed", timeout=30)

    def goes_on(self) -> cairn.Save:
        """A save while the tier fails: as far as the other one carries it."""
        save = self.save()
        save.wait("committed" if self.name == "local" else "local", timeout=50)
        return save

    @property
    def tier(self) -> dict[str, Any]:
        return tier(self.daemon, self.name)

    def says(self, what: str) -> None:
        until(f"status says '{what}'", lambda: what in str(self.tier.get("reason")), 20)

    def is_well(self) -> None:
        """The tier is up, a save commits, and it is on both tiers."""
        until(f"the {self.name} tier is up again", lambda: self.tier["state"] == "up", 45)
        self.commits()
        until("it is on both tiers", lambda: self.verify(self.step).count("every block is good") == 2)

    def verify(self, step: int) -> str:
        return cli(self.daemon, "verify", self.daemon.run, str(step))

    def has_all(self) -> None:
        """Every step is committed, and another launch restores the newest."""
        committed(self.daemon, list(range(max(1, self.step - 4), self.step + 1)), run=self.daemon.run)
        self.checkpointer.close()
        check(self.daemon, self.step, MEBIBYTES)
        assert status(self.daemon)["saves"] == []

    def end(self) -> None:
        self.checkpointer.close()
        self.daemon.stop()


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Callable[[str, Path], Site]]:
    """Makes sites; their daemons end before their filesystems do."""
    made: list[Site] = []

    def make(name: str, folder: Path) -> Site:
        made.append(Site(cluster, name, folder))
        return made[-1]

    yield make
    for one in made:
        one.end()


MakeSite = Callable[[str, Path], Site]


def strikes(faulty: FaultFs, rule: str, before: int) -> None:
    until(f"'{rule}' strikes", lambda: faulty.struck() > before)


@pytest.mark.parametrize("name", TIERS)
def test_calls_that_fail(mounts: Mounts, site: MakeSite, told: Told, name: str) -> None:
    faulty = mounts.faultfs()
    at = site(name, faulty.where / "cairn")
    at.commits()
    for rule in RULES:
        before = faulty.struck()
        faulty.fail(rule)
        save = at.goes_on()
        strikes(faulty, rule, before)
        faulty.fail()
        save.wait("committed", timeout=40)
        at.is_well()
        told.add(rule, name, faulty.struck() - before)
    at.has_all()
    until("no chunk is held back", lambda: status(at.daemon)["pool"]["quarantined"] == 0, 40)


@pytest.mark.parametrize("name", TIERS)
def test_folders_that_cannot_be_made(mounts: Mounts, site: MakeSite, told: Told, name: str) -> None:
    """A run's folders are made by its first save; a save's is renamed by its commit."""
    faulty = mounts.faultfs()
    at = site(name, faulty.where / "cairn")
    at.commits()
    for rule in FOLDER_RULES:
        if rule.startswith("rename") and name == "local":
            continue  # nothing is renamed there
        before = faulty.struck()
        faulty.fail(rule)
        run = rule.replace(" ", "-")
        with at.daemon.open(run) as checkpointer:
            if rule.startswith("mkdir") and name == "global":
                strikes(faulty, rule, before)  # the launch's number is waited for
                faulty.fail()
            checkpointer._link.wait_for_session(40)
            save = checkpointer.save(1, state(1, MEBIBYTES))
            strikes(faulty, rule, before)
            if name == "local":
                save.wait("committed", timeout=50)
            faulty.fail()
            save.wait("committed", timeout=50)
        at.is_well()
        told.add(rule, name, faulty.struck() - before)
    at.has_all()


@pytest.mark.parametrize("name", TIERS)
def test_reads_that_fail(mounts: Mounts, site: MakeSite, told: Told, name: str) -> None:
    """A restore takes the other tier; what only this one has is said to be unreadable, and is read once it can be."""
    faulty = mounts.faultfs()
    at = site(name, faulty.where / "cairn")
    at.commits()
    at.checkpointer.close()
    for rule in ("read EIO", "open EIO"):
        at.daemon.stop()
        at.daemon.start()
        before = faulty.struck()
        faulty.fail(rule)
        if name == "local":
            check(at.daemon, at.step, MEBIBYTES)
        else:
            with pytest.raises(AssertionError, match="EIO"):  # it ends with 1 or 4
                cli(at.daemon, "verify", at.daemon.run, "1", "--tier", "global")
        strikes(faulty, rule, before)
        faulty.fail()
        until("the tier is up", lambda: at.tier["state"] == "up", 45)
        check(at.daemon, at.step, MEBIBYTES)
        told.add(rule, name, faulty.struck() - before)


def vanish(folder: Path) -> Callable[[], None]:
    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)  # the daemon may be writing there
        return not folder.exists()

    until("it is gone", gone)
    return lambda: folder.mkdir(mode=0o700)


def move_away(folder: Path) -> Callable[[], None]:
    moved = folder.with_name("moved")
    folder.rename(moved)

    def come_back() -> None:
        moved.rename(folder)

    return come_back


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("go", [vanish, move_away])
def test_a_folder_that_goes_and_comes_back(
    folder: Path, site: MakeSite, told: Told, name: str, go: Callable[[Path], Callable[[], None]]
) -> None:
    at = site(name, folder / "tier")
    at.commits()
    come_back = go(at.folder)
    at.goes_on()
    at.says(str(at.folder))
    assert not at.folder.exists(), "a folder that is gone may be a mount that is missing: it is not made anew"
    come_back()
    at.is_well()
    at.checkpointer.close()
    check(at.daemon, at.step, MEBIBYTES)
    told.add(f"folder: {go.__name__}", name, 1)


@pytest.mark.parametrize("name", TIERS)
def test_a_disk_that_dies_and_is_mounted_again(mounts: Mounts, site: MakeSite, told: Told, name: str) -> None:
    where = mounts.xfs()
    at = site(name, where / "cairn")
    at.commits()
    mounts.shut_down(where)
    at.goes_on()
    at.says("EIO")
    unmount(where, seconds=40)  # the daemon has let go of it
    at.goes_on()
    assert list(where.iterdir()) == [], "nothing is written below a mount point without its mount"
    mounts.mount_again(where)
    at.is_well()
    at.has_all()
    told.add("disk dies, mounted again", name, 1)


def test_one_of_several_drives_that_dies(mounts: Mounts, site: MakeSite, told: Told) -> None:
    """The other one carries the local tier alone, until the dead one is mounted again."""
    where = mounts.xfs(name="first")
    drives = [where / "cairn", mounts.xfs(name="second") / "cairn"]
    at = site("local", drives[0])
    with_paths(at.daemon, drives)
    for _ in range(3):
        at.commits()
    mounts.shut_down(where)
    for _ in range(3):
        at.goes_on()
    unmount(where, seconds=40)
    at.is_well()
    newest = f"1-{at.step}-1.rank-00000.safetensors"
    assert list(drives[1].rglob(newest)), "the tier is up with one drive"
    mounts.mount_again(where)

    def both_are_used() -> bool:
        at.commits()
        return any(drives[0].rglob(f"1-{at.step}-1.rank-00000.safetensors"))

    until("both drives are used again", both_are_used)
    at.has_all()
    told.add("one of two drives dies", "local", 1)


@pytest.mark.parametrize("name", TIERS)
def test_a_client_of_the_filesystem_that_dies(mounts: Mounts, site: MakeSite, told: Told, name: str) -> None:
    faulty = mounts.faultfs()
    at = site(name, faulty.where / "cairn")
    at.commits()
    faulty.die()
    at.goes_on()
    at.says("ENOTCONN")
    unmount(faulty.where, seconds=40)
    faulty.mount()
    at.is_well()
    at.has_all()
    told.add("client dies (ENOTCONN)", name, 1)


@pytest.mark.parametrize("name", TIERS)
def test_a_filesystem_that_turns_read_only(mounts: Mounts, site: MakeSite, told: Told, name: str) -> None:
    """As ext4 does after an error: it can be mounted again once nobody has anything open there."""
    where = mounts.ext4()
    at = site(name, where / "cairn")
    at.commits()
    mounts.turn_read_only(where)
    save = at.goes_on()
    at.says("EROFS")
    unmount(where, seconds=40)
    mounts.mount_again(where)
    save.wait("committed", timeout=60)
    at.is_well()
    at.has_all()
    told.add("turns read-only", name, 1)


def fill(folder: Path, what: str) -> None:
    """Until nothing more fits."""
    folder.mkdir()
    with contextlib.suppress(OSError):
        if what == "bytes":
            with (folder / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(1 << 16))
        for number in itertools.count():
            (folder / str(number)).mkdir()


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_full_disk(mounts: Mounts, site: MakeSite, told: Told, name: str, what: str) -> None:
    where = mounts.ext4("128M", files=4096 if what == "bytes" else 80)
    at = site(name, where / "cairn")
    at.commits()
    fill(where / "fill", what)
    save = at.goes_on()
    if name == "global":
        until("status says why", lambda: {"no space", "ENOSPC"} & words(cli(at.daemon, "status")))
    else:
        until("the log says why", lambda: {"no space", "ENOSPC"} & words(at.daemon.log.read_text()))
    shutil.rmtree(where / "fill")
    save.wait("committed", timeout=50)
    at.is_well()
    at.has_all()
    told.add(f"full: no {what} left", name, 1)


def words(text: str) -> set[str]:
    return {word for word in ("no space", "ENOSPC") if word in text}


def hangs(at: Site, faulty: FaultFs) -> None:
    """Every call: status answers, the other tier goes on, a stop and a start do, and what wakes at last does no harm."""
    first = at.daemon.pid
    try:
        at.commits()
        faulty.hang()
        at.goes_on()
        at.says("does not answer")
        begin = time.monotonic()
        cli(at.daemon, "status")
        assert time.monotonic() - begin < 6
        begin = time.monotonic()
        at.daemon.stop()
        assert time.monotonic() - begin < 19
        at.daemon.start()
        at.goes_on()
        faulty.answer()
        assert leftovers(first, seconds=20) == []
        at.is_well()
        for step in range(1, at.step + 1):
            assert "bad" not in cli(at.daemon, "verify", at.daemon.run, str(step), "--tier", "global")
        at.has_all()
    finally:
        faulty.answer()
        for pid in living(first):
            unused(pid)


def is_missing_at_the_start(at: Site) -> None:
    """The daemon serves with the tier that it has, says what is wrong with the other one, and takes it when it comes."""
    at.goes_on()
    at.says(str(at.folder))
    at.says("mount its filesystem")
    at.folder.mkdir(parents=True)
    at.is_well()
    at.has_all()


def test_a_tier_that_hangs_and_one_that_is_missing(mounts: Mounts, folder: Path, site: MakeSite, told: Told) -> None:
    """Either of the two tiers; all at once, since most of it is waiting for the daemon's own bounds."""
    faulty = {name: mounts.faultfs(name) for name in TIERS}
    hanging = {name: site(name, faulty[name].where / "cairn") for name in TIERS}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        begun = {("hangs; stop, start", name): pool.submit(hangs, hanging[name], faulty[name]) for name in TIERS}
        for name in TIERS:
            missing = site(name, folder / f"missing-{name}" / "cairn")
            begun["missing at start", name] = pool.submit(is_missing_at_the_start, missing)
        for (fault, name), ended in begun.items():
            ended.result(100)
            told.add(fault, name, 1)
