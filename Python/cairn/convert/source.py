"""A committed step as conversion reads it: tensors whole, piece by piece, and the state around them, through the daemon.

The reader is of no launch, so a job may save on while its steps are converted.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from .. import dtypes, errors, foreign, limits, options, scopes, tensors, tree
from ..loader import Loader
from ..pickles import AllowPickle
from ..plan import Stored, Target, rows, some, stored_of_record, stored_of_shard
from ..reading import committed
from ..session import Session, Who
from ..torch.stored import FRAME

Item = TypeVar("Item")
Told = Callable[[int, int], None]
"""Called with the bytes that are done and those of all."""


@dataclass
class Report:
    """What was converted. ``left_out``: names of stored tensors that the form, the prefix or the chosen rank left out."""

    step: int
    tensors: int
    bytes: int
    left_out: list[str] = field(default_factory=list)


class Source:
    """Opens the step for as long as the block lasts; see export_step for the arguments."""

    def __init__(
        self,
        run: str,
        step: int | None,
        rank: int | None,
        allow_pickle: AllowPickle,
        socket: str | os.PathLike[str] | None,
        told: Told | None,
    ) -> None:
        path = str(socket) if socket is not None else limits.default_socket()
        self._session = Session(path, Who(options.check_run(run), 0, 1, None, None, ""), reads_only=True)
        self._wanted, self._rank = step, rank
        self._allow = allow_pickle
        self._told = told

    def __enter__(self) -> Source:
        self._session.open()
        try:
            self.step, self._sequence = committed(self._session, self._wanted)
            self._loader = Loader(self._session, self.step, self._sequence)
            about = self._describe(once=True)
            self._objects = about["objects"]
            trees = sorted(int(item["rank"]) for item in self._objects if item["name"] == tree.TREE)
            if self._rank is not None and self._rank not in (trees or range(int(about["worldSize"]))):
                saved = some(list(map(str, trees))) or f"0 to {int(about['worldSize']) - 1}"
                raise errors.CannotConvert(f"rank {self._rank} saved nothing in step {self.step}: name one of {saved}")
            self._trees = trees
            self._shards = [shard for shard in about["shards"] if not (shard.get("private") and shard["name"].startswith(FRAME))]
        except BaseException:
            self._session.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()

    def _describe(self, **parameters: Any) -> dict[str, Any]:
        known = {"step": self.step, "sequence": self._sequence}
        return self._session.load_call("Describe", known | parameters, timeout=limits.LOAD_SECONDS)

    def told(self, done: int, of: int) -> None:
        if self._told is not None:
            self._told(done, of)

    @property
    def names(self) -> set[str]:
        """Of all stored tensors; those of one rank's own by the name that they have there."""
        return {str(shard["name"]) for shard in self._shards}

    def tensors(self, prefix: str) -> dict[str, Stored]:
        """The tensors whose names begin with ``prefix``, by the rest of their names: those that belong to all, and the rank's own.

        Raises:
            CannotConvert: there are ranks' own, and nothing says whose; or there are none."""
        chosen = [shard for shard in self._shards if shard["name"].startswith(prefix)]
        own = sorted({shard["name"] for shard in chosen if shard.get("private")})
        found = {shard["name"]: stored_of_shard(shard, None) for shard in chosen if not shard.get("private")}
        if own:
            rank = self._whose(f"tensors {some(own)}")
            for shard in self._describe(names=own)["shards"]:
                if shard["rank"] == rank and shard.get("private"):
                    found[shard["name"]] = stored_of_shard(shard, rank)
        if not found:
            raise errors.CannotConvert(f"step {self.step} has no tensor '{prefix}…'; it has {some(sorted(self.names))}")
        for name, stored in found.items():
            if name == prefix or stored.dtype not in dtypes.BYTES:
                unknown = f"this version does not know {stored.dtype}: upgrade it"
                why = "nothing is left without the prefix" if name == prefix else unknown
                raise errors.CannotConvert(f"tensor '{name}': {why}")
        return {name.removeprefix(prefix): stored for name, stored in found.items()}

    def stream(self, stored: Iterable[Stored]) -> Iterator[memoryview]:
        """The tensors' bytes, one after the other, in row-major order; each piece is valid until the next one is asked for."""
        buffer = bytearray(limits.CONVERT_BYTES)
        anchor = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        base, used = ctypes.addressof(anchor), 0
        targets: list[Target] = []
        for each in stored:
            for place, shape, count in rows(each.shape, (0,) * len(each.shape), dtypes.BYTES[each.dtype], len(buffer)):
                if used + count > len(buffer):
                    self._loader.load(targets)
                    yield memoryview(buffer)[:used]
                    targets, used = [], 0
                offsets = None if tuple(shape) == each.shape else tuple(place)
                if count:
                    targets.append(
                        Target(each.name, each.rank, each.dtype, offsets, tuple(shape), base + used, anchor, count, each.source)
                    )
                used += count
        if used:
            self._loader.load(targets)
            yield memoryview(buffer)[:used]

    def state(self, make: Callable[[Stored], Any]) -> tuple[Any, list[str]]:
        """The state of a rank's tree, with what ``make`` gives for each tensor (tied ones: the same), and the names of the tensors
        that are not in it.

        Raises:
            CannotConvert: it was not saved by a Checkpointer, or nothing says whose tree. PickleRefused."""
        if not self._trees:
            raise errors.CannotConvert(
                f"step {self.step} has no tree, for it was not saved by Checkpointer.save(): a step that DCP saved is a folder that"
                " dcp.load reads as it is (cairn path), and its tensors go to safetensors or hf"
            )
        private = sorted({shard["name"] for shard in self._shards if shard.get("private")})
        has_own = any(item["name"] == tree.VALUES and int(item["bytes"]) > len("[]") for item in self._objects)
        what = f"tensors {some(private)}" if private else "plain values" if has_own else None
        rank = self._trees[0] if what is None and self._rank is None else self._whose(what or "")
        sizes = {str(item["name"]): int(item["bytes"]) for item in self._objects if int(item["rank"]) == rank}

        def read(name: str) -> bytes:
            return self._loader.read(name, rank, sizes[name]) if name in sizes else b""

        body = json.loads(read(tree.TREE))
        if body["format"] not in tree.FORMATS:
            raise errors.CannotConvert(f"the tree of step {self.step} has format {body['format']}: upgrade this package")
        made: dict[Stored, Any] = {}
        records = iter([stored_of_record(record, rank) for record in body["tensors"]])

        def tensor() -> Any:
            stored = next(records)
            if stored not in made:
                made[stored] = make(stored)
            return made[stored]

        values = scopes.Values(body["root"], read, self._allow)

        def decode(key: Any) -> Any:
            return tree.decode_key(key, self._allow)

        state = foreign.pruned(body["root"], values, decode, lambda node: True, tensor=tensor)
        return state, sorted(self.names - {stored.name for stored in made})

    def empty(self, stored: Stored, device: str = "cpu") -> torch.Tensor:
        """A tensor of the whole's shape and dtype."""
        dtype = dtypes.to_torch(stored.dtype)
        if dtype is None:
            raise errors.CannotConvert(f"tensor '{stored.name}': this torch has no {stored.dtype}: use a newer one")
        return torch.empty(stored.shape, dtype=dtype, device=device)

    def outline(self) -> tuple[Any, list[str], dict[int, tuple[torch.Tensor, Stored]]]:
        """As ``state``, of tensors without memory; and by the id of each what it stands for."""
        made: dict[int, tuple[torch.Tensor, Stored]] = {}

        def make(stored: Stored) -> torch.Tensor:
            tensor = self.empty(stored, "meta")
            made[id(tensor)] = (tensor, stored)
            return tensor

        state, left_out = self.state(make)
        return state, left_out, made

    def fill(self, tensor: torch.Tensor, stored: Stored) -> None:
        """Load the whole of it into a new tensor of ``empty``."""
        if tensor.nbytes:
            place = int(tensor.data_ptr()), tensor, int(tensor.nbytes)
            self._loader.load([Target(stored.name, stored.rank, stored.dtype, None, stored.shape, *place, stored.source)])

    def _whose(self, what: str) -> int:
        if self._rank is not None:
            return self._rank
        if len(self._trees) == 1:
            return self._trees[0]
        raise errors.CannotConvert(f"{what} of step {self.step} are single ranks' own: say whose to take (rank=0, --rank 0)")


def size_of(stored: Stored) -> int:
    """Bytes of the whole."""
    return tensors.count(stored.shape) * dtypes.BYTES[stored.dtype]


def portions(items: Iterable[Item], size: Callable[[Item], int], most: int) -> list[list[Item]]:
    """``items`` in their order, in lists of at most ``most`` bytes, or of one that is larger; one list where there are none."""
    found: list[list[Item]] = [[]]
    used = 0
    for item in items:
        if found[-1] and used + size(item) > most:
            found.append([])
            used = 0
        found[-1].append(item)
        used += size(item)
    return found


def unreadable(path: Path, by: str, failure: BaseException) -> errors.CannotConvert:
    """What is said of a file whose pickles, which can raise anything, did."""
    first = (str(failure).splitlines() or [""])[0]
    return errors.CannotConvert(
        f"'{path}' cannot be read by {by}: {first}. Where it needs classes that run code, and is to be trusted, allow "
        "pickles (allow_pickle=True, --allow-pickle)"
    )
