"""What a crash must leave: states whose every byte is known from their place, and what stands on a tier's folders, read without
Cairn's code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

SMALL = 1001
TAIL = b',"digest":"'
PART = re.compile(r"(?:(?P<save>\d+-\d+-\d+)\.)?rank-(?P<rank>\d{5})-[0-9a-f]{32}\.json")
STEP = re.compile(r"step-(?P<step>\d+)\.(?P<attempt>\d+)-(?P<count>\d+)")


def pattern(attempt: int, step: int, rank: int, kibibytes: int) -> dict[str, Any]:
    """What rank ``rank`` saves: no two blocks, ranks, steps or attempts are alike."""
    base = attempt * 1_000_003 + step * 10_007 + rank * 101
    large = np.arange(kibibytes * 256, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(base % 2**32)
    return {"large": large.view(np.int32), "small": np.full(SMALL, base, dtype=np.int64), "attempt": attempt, "step": step}


def empty(kibibytes: int) -> dict[str, Any]:
    return {
        "large": np.zeros(kibibytes * 256, dtype=np.int32),
        "small": np.zeros(SMALL, dtype=np.int64),
        "attempt": 0,
        "step": 0,
    }


def assert_restored(into: dict[str, Any], step: int, rank: int, kibibytes: int) -> int:
    """``into`` is what this rank saved as ``step``, bit for bit; the attempt that did."""
    assert into["step"] == step, f"rank {rank} got step {into['step']} for step {step}"
    expected = pattern(into["attempt"], step, rank, kibibytes)
    for name in ("large", "small"):
        assert np.array_equal(into[name], expected[name]), f"rank {rank}: {name} of step {step} is not what was saved"
    return int(into["attempt"])


@dataclass(frozen=True, order=True)
class SaveName:
    """A save's id. Order: attempt, then step, which is the order of commits while no attempt goes back."""

    attempt: int
    step: int
    tries: int

    @classmethod
    def read(cls, text: str) -> SaveName:
        return cls(*map(int, text.split("-")))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.step}-{self.tries}"


@dataclass(frozen=True)
class Step:
    """A folder ``step-…``, which claims to be whole."""

    folder: Path
    save: SaveName
    ranks: list[int]


def record(path: Path) -> dict[str, Any]:
    """A record that proves itself by its digest."""
    text = path.read_bytes()
    body, _, tail = text.rpartition(TAIL)
    assert tail == hashlib.sha256(body).hexdigest().encode() + b'"}\n', f"'{path}' does not end in its digest"
    found: dict[str, Any] = json.loads(text)
    return found


def rows(folder: Path, digest: str) -> dict[int, str]:
    """A commit's rows: the digest of each rank's manifest. They prove themselves by the head's digest, which the commit names."""
    text = (folder / f"manifests-{digest[:32]}.bin").read_bytes()
    assert text[:8] == b"CAIRNROW", f"'{folder}': no rows"
    _, row_bytes, block_rows, count = struct.unpack_from("<4I", text, 8)
    blocks = -(-count // block_rows)
    head, body = text[: 24 + 32 * blocks], text[24 + 32 * blocks :]
    assert hashlib.sha256(head).hexdigest() == digest, f"'{folder}': the head of the rows is not the one that was committed"
    assert len(body) == count * row_bytes, f"'{folder}': {len(body)} bytes of rows"
    for block in range(blocks):
        part = body[block * block_rows * row_bytes : (block + 1) * block_rows * row_bytes]
        assert hashlib.sha256(part).digest() == head[24 + 32 * block : 56 + 32 * block], f"'{folder}': rows of block {block}"
    found = (body[at : at + row_bytes] for at in range(0, len(body), row_bytes))
    return {int.from_bytes(row[:8], "little"): row[16:48].hex() for row in found}


class TierFiles:
    """The files of one run on one tier. Everything that claims to be whole is read to the last byte; AssertionError: it is not."""

    def __init__(self, root: Path, kibibytes: int = 0, run: str = "run") -> None:
        self.folder = root / str(os.getuid()) / run
        self._kibibytes = kibibytes

    def _names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder)) if folder.exists() else []

    def parts(self) -> dict[SaveName, set[int]]:
        """The ranks of each save whose manifest stands: beside it stands what the rank saved."""
        found: dict[SaveName, set[int]] = {}
        for folder in [
            self.folder,
            *(self.folder / name for name in self._names(self.folder) if name.startswith((".saving-", "step-"))),
        ]:
            for name in self._names(folder):
                if match := PART.fullmatch(name):
                    save = self._check_part(folder, name, match["save"])
                    found.setdefault(save, set()).add(int(match["rank"]))
        return found

    def _check_part(self, folder: Path, name: str, save: str | None) -> SaveName:
        manifest = record(folder / name)
        rank, known = int(manifest["rank"]), SaveName.read(manifest["save"])
        assert save is None or save == manifest["save"], f"'{folder / name}' is one of save {manifest['save']}"
        file = folder / f"{'' if save is None else save + '.'}rank-{rank:05}.safetensors"
        assert file.with_suffix(".crc").exists(), f"no checksums beside '{folder / name}'"
        assert file.stat().st_size == manifest["fileBytes"], f"'{file}' has {file.stat().st_size} bytes"
        held = load_file(file)
        expected = pattern(known.attempt, known.step, rank, self._kibibytes)
        for tensor in ("large", "small"):
            (array,) = (array for key, array in held.items() if key.rpartition("/")[2] == tensor)
            assert np.array_equal(array, expected[tensor]), f"'{file}': {tensor} is not what was saved"
        return known

    def steps(self) -> dict[SaveName, Step]:
        """The committed steps that a reader sees: each is whole, and of one save."""
        found = {}
        for name in self._names(self.folder):
            match = STEP.fullmatch(name)
            if match is None:
                continue
            folder = self.folder / name
            commit = record(folder / "checkpoint.json")["commit"]
            save = SaveName.read(commit["save"])
            assert (save.step, save.attempt) == (int(match["step"]), int(match["attempt"])), f"'{folder}' holds save {save}"
            assert (folder / commit["layoutFile"]).exists(), f"'{folder}' has no layout"
            manifests = rows(folder, commit["manifestsDigest"])
            assert list(manifests) == commit.get("participants", list(range(commit["worldSize"]))), (
                f"'{folder}': rows of {list(manifests)}"
            )
            for rank, digest in manifests.items():
                (name,) = (name for name in self._names(folder) if (part := PART.fullmatch(name)) and int(part["rank"]) == rank)
                assert (folder / name).read_bytes().endswith(digest.encode() + b'"}\n'), (
                    f"'{folder / name}' is not the one that was committed"
                )
                assert record(folder / name)["save"] == commit["save"], f"'{folder}' mixes saves"
            found[save] = Step(folder, save, list(manifests))
        return found

    def decisions(self) -> dict[SaveName, str]:
        """Saves that are decided, on the tier that commits: ``commit`` or ``void``."""
        found = {}
        for path in (self.folder / "attempts").glob("*/*.json"):
            if re.fullmatch(r"\d+-\d+-\d+\.json", path.name):
                found[SaveName.read(path.stem)] = str(record(path)["verdict"])
        return found

    def leftovers(self) -> list[Path]:
        """What is neither published nor needed once nothing is in flight: folders of saves, and data files under temporary names.
        Records' temporaries are left alone by a start for ten minutes, since they are too small to matter and may be another's."""
        return sorted(self._unpublished())

    def _unpublished(self) -> Iterator[Path]:
        for name in self._names(self.folder):
            path = self.folder / name
            if name.startswith(".saving-") or _is_data(name):
                yield path
            if name.startswith((".saving-", "step-")):
                yield from (path / inner for inner in self._names(path) if _is_data(inner))


def _is_data(name: str) -> bool:
    return (
        name.startswith(".") and name.endswith(".part") and ".json." not in name and ".crc." not in name and ".probe." not in name
    )
