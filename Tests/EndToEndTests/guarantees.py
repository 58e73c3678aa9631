"""What Cairn asks of a shared filesystem, tried through one or two mounts of it. As a program it tells an operator of theirs:

python Tests/EndToEndTests/guarantees.py /mnt/pfs/empty-folder [the same folder through another mount or node's export]
"""

from __future__ import annotations

import concurrent.futures
import errno
import mmap
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

RACES = 12
VISIBLE_SECONDS = 60.0
"""Later than this nothing is waited for. Cairn tolerates any delay; each one is added to the time of a commit."""
REFUSALS = {errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.ESTALE}


def succeeds(call: Callable[[], object]) -> bool:
    """False where another was first; any other error is one."""
    try:
        call()
    except OSError as failure:
        if failure.errno not in REFUSALS:
            raise
        return False
    return True


def new_file(path: Path, text: str = "") -> Path:
    """Written and synced, as Cairn writes what it publishes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seconds_until(condition: Callable[[], bool]) -> float:
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > VISIBLE_SECONDS:
            raise AssertionError(f"not within {VISIBLE_SECONDS:g} s")
        time.sleep(0.002)
    return time.monotonic() - begin


class Guarantees:
    """Each method tries one; it returns what there is to say, or fails."""

    def __init__(self, here: Path, there: Path) -> None:
        self.mounts = (here, there)
        self.here = here
        self.there = there

    def at_once(self, call: Callable[[Path, int, int], object]) -> list[int]:
        """How many of two calls at once, each through a mount, succeed; ``call`` gets mount, side and number."""
        counts = []
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for number in range(RACES):
                begin = threading.Barrier(2)

                def one(side: int, number: int = number, begin: threading.Barrier = begin) -> bool:
                    begin.wait(30)
                    return succeeds(lambda: call(self.mounts[side], side, number))

                counts.append(sum(pool.map(one, (0, 1))))
        return counts

    def race(self, call: Callable[[Path, int, int], object]) -> str:
        counts = self.at_once(call)
        assert counts == [1] * RACES, f"of two calls at once so many succeeded: {counts}"
        return f"{RACES} races"

    def mkdir_is_exclusive(self) -> str:
        return self.race(lambda mount, side, number: (mount / f"folder-{number}").mkdir())

    def create_is_exclusive(self) -> str:
        return self.race(lambda mount, side, number: new_file(mount / f"created-{number}"))

    def link_is_exclusive(self) -> str:
        for side, mount in enumerate(self.mounts):
            for number in range(RACES):
                new_file(mount / f"own-{number}-{side}", f"{side}")
        said = self.race(lambda mount, side, number: os.link(mount / f"own-{number}-{side}", mount / f"linked-{number}"))
        for number in range(RACES):
            assert len({(mount / f"linked-{number}").read_text() for mount in self.mounts}) == 1, "the mounts see different files"
        return said

    def rename_of_a_folder_happens_once(self) -> str:
        """To two names only one gets there. To one name both may say so, and the folder is there whole."""
        for number in range(RACES):
            for name in (f"apart-{number}", f"together-{number}"):
                (self.here / name).mkdir()
                new_file(self.here / name / "file", "x")
        # An old name may be seen for a while, so that a second rename of it looks possible.
        names = [f"{name}-{number}/file" for name in ("apart", "together") for number in range(RACES)]
        seconds_until(lambda: all((self.there / name).exists() for name in names))
        said = self.race(lambda mount, side, number: os.rename(mount / f"apart-{number}", mount / f"apart-{number}-{side}"))
        self.at_once(lambda mount, side, number: os.rename(mount / f"together-{number}", mount / f"renamed-{number}"))
        for number in range(RACES):
            for mount in self.mounts:
                assert os.listdir(mount / f"renamed-{number}") == ["file"], number
            seconds_until(lambda number=number: not (self.there / f"together-{number}").exists())  # type: ignore[misc]
        return said

    def rename_refuses_a_folder_that_is_not_empty(self) -> str:
        for name in ("new", "old"):
            (self.here / name).mkdir()
            new_file(self.here / name / "file", name)
        for mount in self.mounts:
            assert not succeeds(lambda mount=mount: os.rename(mount / "new", mount / "old")), "it replaced the folder"  # type: ignore[misc]
        assert (self.here / "old" / "file").read_text() == "old"
        return "ENOTEMPTY"

    def an_open_file_survives_the_rename_of_its_folder(self) -> str:
        (self.here / "before").mkdir()
        new_file(self.here / "before" / "file", "kept")
        descriptor = os.open(self.here / "before" / "file", os.O_RDONLY)
        try:
            os.rename(self.there / "before", self.there / "after")
            assert os.pread(descriptor, 10, 0) == b"kept"
        finally:
            os.close(descriptor)
        return "read by its descriptor"

    def synced_bytes_are_read_elsewhere(self) -> str:
        data = os.urandom(4 << 20)
        path = self.here / "bytes"
        with path.open("xb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        sync_folder(self.here)
        seconds_until((self.there / "bytes").exists)
        assert (self.there / "bytes").read_bytes() == data
        return "fsync of file and folder"

    def names_and_sizes_become_visible(self) -> str:
        path, seen = self.here / "grows", self.there / "grows"
        assert not seen.exists()
        new_file(path, "x")
        name = seconds_until(seen.exists)
        with path.open("ab") as file:
            file.write(b"y" * 9)
            file.flush()
            os.fsync(file.fileno())
        size = seconds_until(lambda: seen.stat().st_size == 10)
        os.rename(path, self.here / "elsewhere")
        old = seconds_until(lambda: not seen.exists())
        return f"a new name after {name:.2f} s, a size {size:.2f} s, an old name gone {old:.2f} s"

    def direct_io_and_room(self) -> str:
        """Not needed: without them Cairn writes through the page cache, and meets a full disk later."""
        said = []
        try:
            descriptor = os.open(self.here / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
            try:
                with mmap.mmap(-1, 8192) as memory:
                    os.writev(descriptor, [memory])
            finally:
                os.close(descriptor)
            said.append("O_DIRECT")
        except OSError as failure:
            said.append(f"no O_DIRECT ({errno.errorcode.get(failure.errno or 0)})")
        with (self.here / "room").open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, 1 << 20)
                said.append("fallocate")
            except OSError as failure:
                said.append(f"no fallocate ({errno.errorcode.get(failure.errno or 0)})")
        return ", ".join(said)


CHECKS = [name for name in vars(Guarantees) if not name.startswith("_") and name not in ("race", "at_once")]


def check(here: Path, there: Path) -> dict[str, str]:
    """What each check has to say, below a folder that is made and removed; a check that fails raises."""
    name = f".cairn-guarantees-{time.time_ns()}"
    (here / name).mkdir()
    seconds_until((there / name).exists)
    try:
        guarantees = Guarantees(here / name, there / name)
        return {name: getattr(guarantees, name)() for name in CHECKS}
    finally:
        shutil.rmtree(here / name, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    for check_name, text in check(Path(sys.argv[1]), Path(sys.argv[-1])).items():
        print(f"{check_name.replace('_', ' ')}: {text}")
