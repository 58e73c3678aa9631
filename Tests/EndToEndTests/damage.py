"""Files of a tier, by kind, and what may happen to one: flipped bytes, cuts, another file in its place, no file at all."""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 256 << 10
NEWEST, OLDER = 3, 2
VOID = 4


@dataclass(frozen=True)
class Kind:
    """A file that the daemon reads. ``of_step``: a part of the newest committed step; else it only says what happened.
    ``copied``: the commit, which stands twice, in the step and as its decision: either serves for both."""

    tier: str
    name: str
    pattern: str
    of_step: bool = False
    copied: bool = False

    def find(self, run: Path) -> Path:
        return sorted(run.glob(self.pattern))[0]

    def __str__(self) -> str:
        return f"{self.tier} {self.name}"


STEP = f"step-{NEWEST}.*"
KINDS = [
    Kind("global", "data", f"{STEP}/rank-00000.safetensors", of_step=True),
    Kind("global", "checksums", f"{STEP}/rank-00001.crc", of_step=True),
    Kind("global", "manifest", f"{STEP}/rank-00000-*.json", of_step=True),
    Kind("global", "rows", f"{STEP}/manifests-*.bin", of_step=True),
    Kind("global", "layout", f"{STEP}/layout-*.json", of_step=True),
    Kind("global", "commit in the step", f"{STEP}/checkpoint.json", of_step=True, copied=True),
    Kind("global", "commit", f"attempts/000001/1-{NEWEST}-1.json", of_step=True, copied=True),
    Kind("global", "void", f"attempts/000002/2-{VOID}-1.json"),
    Kind("global", "pin", f"{STEP}/pin"),
    Kind("global", "older attempt", "attempts/000001.json"),
    Kind("global", "newest attempt", "attempts/000003.json"),
    Kind("global", "list of a node", "attempts/000003/have-*.json"),
    Kind("global", "choice", "attempts/000003/restore-1.json"),
    Kind("global", "settled", "attempts/000003/settled-1-*.json"),
    Kind("global", "verdict", "attempts/000003/settle-1.json"),
    Kind("local", "data", f"1-{NEWEST}-1.rank-00001.safetensors", of_step=True),
    Kind("local", "checksums", f"1-{NEWEST}-1.rank-00000.crc", of_step=True),
    Kind("local", "manifest", f"1-{NEWEST}-1.rank-00001-*.json", of_step=True),
    Kind("local", "copy of a commit", f"decisions/1-{NEWEST}-1.json", of_step=True),
]
BRANCH = Kind("global", "record of a branch", "attempts/000000/branch.json", of_step=True, copied=True)


@dataclass(frozen=True)
class Damage:
    name: str
    do: Callable[[Path], None]


def own_copy(path: Path) -> None:
    """The file without its other hard links."""
    copy = path.with_name(f".{path.name}.copy")
    shutil.copy(path, copy)
    shutil.copystat(path, copy)
    os.chown(copy, path.stat().st_uid, path.stat().st_gid)
    copy.replace(path)


def flip(offset: int, bit: int = 4) -> Damage:
    def do(path: Path) -> None:
        own_copy(path)
        with path.open("r+b") as opened:
            opened.seek(offset)
            byte = opened.read(1)[0]
            opened.seek(offset)
            opened.write(bytes([byte ^ 1 << bit]))

    return Damage(f"flip of bit {bit} at {offset}", do)


def cut(length: int) -> Damage:
    def do(path: Path) -> None:
        own_copy(path)
        os.truncate(path, length)

    return Damage(f"cut to {length}", do)


def grow(path: Path) -> None:
    own_copy(path)
    with path.open("ab") as opened:
        opened.write(b"\n" * 4096)


def zeros(path: Path) -> None:
    """As a power cut leaves space that was allocated and never written."""
    size = path.stat().st_size
    own_copy(path)
    os.truncate(path, 0)
    os.truncate(path, size)


def replaced(by: Callable[[Path], Path]) -> Callable[[Path], None]:
    """Another file in its place, as a wrong copy by hand."""

    def do(path: Path) -> None:
        other = by(path)
        path.unlink()
        shutil.copy(other, path)
        os.chown(path, other.stat().st_uid, other.stat().st_gid)

    return do


def any_digest(name: str) -> str:
    """The pattern of a name whatever digest is in it."""
    return re.sub(r"-[0-9a-f]{32}\.(json|bin)$", r"-*.\1", name)


def other_run(path: Path) -> Path:
    """The same file of the run `other`, where that has it."""
    run = next(folder for folder in path.parents if folder.parent.name == "0")
    pattern = any_digest(str(path.relative_to(run))).replace(f".saving-1-{NEWEST}-1", STEP)
    return sorted((run.parent / "other").glob(pattern))[0]


def other_step(path: Path) -> Path:
    """The same file of the older step, or of an older save; of the rest, its neighbour."""
    text, folder = any_digest(path.name), path.parent
    if folder.name.startswith(("step-", ".saving-")):
        folder = next(folder.parent.glob(f"step-{OLDER}.*"))
    else:
        text = text.replace(f"1-{NEWEST}-1", f"1-{OLDER}-1")
    return next((found for found in sorted(folder.glob(text)) if found != path), neighbour(path))


def neighbour(path: Path) -> Path:
    """The same file of the other rank, else any other file beside it."""
    text = re.sub("rank-0000([01])", lambda found: f"rank-0000{1 - int(found[1])}", any_digest(path.name))
    files = sorted(found for found in path.parent.glob(text) if found != path)
    files += sorted(found for found in path.parent.iterdir() if found.is_file() and found != path)
    return (files or sorted(path.parent.parent.glob("*.json")))[0]


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else under its name."""

    def do(path: Path) -> None:
        path.unlink()
        make(path)

    return do


def symlink(path: Path) -> None:
    """To a good copy: still no file of the daemon's."""
    hidden = path.with_name(f"{path.name}.moved")
    path.rename(hidden)
    path.symlink_to(hidden)


def unreadable(path: Path) -> None:
    own_copy(path)
    path.chmod(0)


SHAPES = [
    Damage("cut to nothing", cut(0).do),
    Damage("4 KiB more", grow),
    Damage("zeros", zeros),
    Damage("missing", Path.unlink),
    Damage("another run's", replaced(other_run)),
    Damage("another step's", replaced(other_step)),
    Damage("another rank's", replaced(neighbour)),
    Damage("a folder", instead(Path.mkdir)),
    Damage("a FIFO", instead(os.mkfifo)),
    Damage("a symlink", symlink),
    Damage("a dangling symlink", instead(lambda path: path.symlink_to("nothing"))),
    Damage("a socket", instead(lambda path: os.mknod(path, stat.S_IFSOCK | 0o600))),
    Damage("mode 0", unreadable),
]


def structural(path: Path) -> list[Damage]:
    """Flips in each field of a file and cuts at its borders."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        data = path.read_bytes()[: 16 << 10]
        begin = 8 + int.from_bytes(data[:8], "little")
        fields = [0, 3, 7, 8, begin - 1, begin, BLOCK - 1, BLOCK, size - 1]
        names = rb'"__metadata__|"dtype|"data_offsets|DCP_SHARDING|cairn\.table|"U8'
        fields += [found.start() for found in re.finditer(names, data[:begin])]
        cuts = [1, 7, 8, begin - 1, begin, BLOCK - 1, BLOCK, BLOCK + 1, size - 1]
    elif path.suffix == ".crc":
        fields, cuts = [0, 8, 12, 16, 20, size - 4, size - 1], [1, 15, 16, 20, size - 4, size - 1]
    elif path.suffix == ".bin":
        fields, cuts = [0, 8, 12, 16, 20, 24, 56, 57, 60, 64, 96, size - 1], [1, 20, 24, 55, 56, 57, size // 2, size - 1]
    elif size:
        data = path.read_bytes()
        fields = [0, size - 2, size - 1, size - 10]
        for found in re.finditer(rb'"(\w+)":', data):
            fields += [found.start(1), found.end()]
        cuts = [1, size // 2, size - 1]
    else:
        return []
    return [flip(offset) for offset in dict.fromkeys(fields)] + [cut(length) for length in dict.fromkeys(cuts)]


def randomly(path: Path, chance: random.Random) -> Damage:
    size = path.stat().st_size
    if size == 0:
        return SHAPES[1]
    return cut(chance.randrange(size)) if chance.random() < 0.2 else flip(chance.randrange(size), chance.randrange(8))


def table(example: Path, chance: random.Random, kinds: list[Kind] = KINDS) -> Iterator[tuple[Kind, Damage]]:
    """Each kind with each shape, each field of each in a random order, then flips and cuts anywhere for ever."""
    shapes = [(kind, damage) for damage in SHAPES for kind in kinds]
    fields = [(kind, damage) for kind in kinds for damage in structural(kind.find(example / kind.tier / "0" / "run0"))]
    chance.shuffle(fields)
    yield from shapes
    yield from fields
    while True:
        kind = chance.choice(kinds)
        yield kind, randomly(kind.find(example / kind.tier / "0" / "run0"), chance)
