"""One rank's part of a DCP checkpoint as Cairn stores it: which shards and objects, and where each will be in the rank's file.

NAME                     the tensor's part, under its FQN
cairn.torch.NAME         before it, private to the rank: what makes torch.load() read both as one file (frames.py)
object NAME              a bytes entry, as the planner gives it
file .metadata           on the coordinator: DCP's own metadata, whose storage_data names the ranks' files and the places in them
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import dtypes, errors, tensors
from ..guard import Guard, Lazy, named_lazy
from .frames import frame

FRAME = "cairn.torch."
METADATA = ".metadata"
METADATA_OBJECT = "cairn.file." + METADATA
_STORED_BYTES = (8, 4, 2, 1)
_WORDS = {8: "I64", 4: "I32", 2: "I16", 1: "U8"}


@dataclass(slots=True)
class Part:
    """A box of a global tensor and the memory that it is read from; shapes and offsets in elements."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    offsets: tuple[int, ...]
    keep: Any
    """What owns the memory at ``address``."""
    address: int
    bytes: int
    eager: bool = True

    @property
    def kind(self) -> str:
        kind = dtypes.of_torch(self.dtype)
        if kind is None:
            raise errors.UnsupportedTensor(f"tensor '{self.name}' is of {self.dtype}, which the file format cannot hold")
        return kind

    @property
    def element_bytes(self) -> int:
        """Of an element as it is stored: of a complex128, half of it."""
        return min(dtypes.BYTES[self.kind], 8)

    @property
    def is_stored(self) -> bool:
        """An empty part of what others hold is nothing."""
        return bool(self.bytes) or self.shape == self.whole

    def shards(self) -> Iterator[dict[str, Any]]:
        """As Register takes them: the frame, then the bytes."""
        before = frame(self.dtype, self.shape)
        words = _WORDS[self.element_bytes]
        yield self._shard(
            FRAME + self.name, words, (len(before) // self.element_bytes,), tensors.address_of_bytes(before), len(before)
        ) | {"private": True}
        own = self._shard(self.name, self.kind, self.shape, self.address, self.bytes)
        if self.shape != self.whole:
            own |= {"globalShape": self.whole, "offsets": self.offsets}
        yield own

    def _shard(self, name: str, dtype: str, shape: Sequence[int], address: int, count: int) -> dict[str, Any]:
        shard: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(shape)}
        if not self.eager:
            shard["eager"] = False
        shard["source"] = {"memory": [{"address": address, "bytes": count}] if count else []}
        return shard


def part_of(name: str, tensor: torch.Tensor, whole: Sequence[int], offsets: Sequence[int]) -> Part:
    """A plain tensor, the box at ``offsets`` of a global one. One that is not on the CPU, or not dense, is copied here."""
    local = tensor.detach()
    if local.layout != torch.strided:
        raise errors.UnsupportedTensor(f"tensor '{name}' is {local.layout}: only dense (strided) tensors can be saved")
    if local.device.type == "meta":
        raise errors.UnsupportedTensor(f"tensor '{name}' is on 'meta' and has no data")
    if local.device.type != "cpu" or not tensors.is_dense(local):
        local = local.to("cpu", copy=True, memory_format=torch.contiguous_format).resolve_conj().resolve_neg()
    count = int(local.nbytes)
    return Part(name, local.dtype, tuple(local.shape), tuple(whole), tuple(offsets), local, int(local.data_ptr()), count)


def decide_lazy(parts: Iterable[Part], guard: Guard, lazy: Lazy) -> list[Part]:
    """Which may be copied after the call: what a guarded optimizer owns, or ``lazy`` names. Returns them."""
    guard.refresh()
    found = []
    for part in parts:
        part.eager = not (named_lazy(part.name, lazy) or guard.owns(part.address, part.bytes))
        if not part.eager:
            found.append(part)
    return found


def places(parts: Sequence[Part]) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each tensor's frame and bytes lie, as (offset, bytes) from the data's begin, and where the objects begin.

    As the daemon orders a file (CairnStore's Layout): larger elements first, of those eager ones first, then as registered."""
    found: dict[str, tuple[int, int]] = {}
    at = 0
    for size in _STORED_BYTES:
        for eager in (True, False):
            for part in parts:
                if part.element_bytes == size and part.eager == eager:
                    count = len(frame(part.dtype, part.shape)) + part.bytes
                    found[part.name] = (at, count)
                    at += count
    return found, at


def file_of(rank: int) -> str:
    """The name of a rank's file in a step's folder (CairnStore's Names)."""
    return f"rank-{rank:05d}.safetensors"


def rank_of(file: str) -> int:
    return int(file.removeprefix("rank-").removesuffix(".safetensors"))
