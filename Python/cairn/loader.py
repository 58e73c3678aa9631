"""Reads a step's bytes through leases: while one is emptied, the daemon fills the next."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import dtypes, errors, limits, streams, tensors
from .plan import NEAR, Target, rows
from .session import Lease, Session
from .wire import CHECKPOINT


@dataclass(slots=True)
class Batch:
    """The boxes of one Load, and where the bytes of each go: (box, target, from which of its bytes on, bytes)."""

    boxes: list[tuple[dict[str, Any], Target, int, int]]
    lease: Lease


class Loader:
    """Reads boxes of one step through the session's leases: while one lease is emptied, the daemon fills the next."""

    def __init__(self, session: Session, step: int, sequence: int) -> None:
        self._session = session
        self._step = step
        self._sequence = sequence
        self._use(session.take_leases(limits.LEASES, limits.LEASE_BYTES))
        self._is_wide = False
        self._boxes_per_load = min(limits.BOXES_PER_LOAD, session.limits.get("boxes", limits.BOXES_PER_LOAD))
        self.tiers: set[str] = set()
        self.bytes = 0

    def read(self, name: str, rank: int, count: int) -> bytes:
        """An object's bytes."""
        if count == 0:
            return b""
        buffer = bytearray(count)
        anchor = (ctypes.c_char * count).from_buffer(buffer)
        self.load([Target(name, rank, "U8", None, (count,), ctypes.addressof(anchor), anchor, count)])
        return bytes(buffer)

    def load(self, targets: list[Target]) -> None:
        """Fill all targets; all of them anew, through other leases, where a tier did not answer."""
        for _ in range(limits.LOST_LEASES):
            try:
                return self._load(targets)
            except errors.LeaseLost as loss:
                lost = loss
                self._session.give_back_leases()
                self._use(self._session.take_leases(limits.LEASES, limits.LEASE_BYTES))
                self._is_wide = False
        raise lost

    def _load(self, targets: list[Target]) -> None:
        self._widen(sum(target.bytes for target in targets))
        if any(map(_is_on_gpu, targets)):
            for lease in self._leases:
                streams.pin(lease)
        asked: deque[Batch] = deque()
        with self._session.loads_lock:
            try:
                for batch in self._batches(targets):
                    if len(asked) == len(self._leases):
                        self._take(asked)
                    self._ask(batch)
                    asked.append(batch)
                while asked:
                    self._take(asked)
            except Exception:
                self._forgo(len(asked))
                raise
            except BaseException:  # as ^C: which replies have come is not known
                self._session.loads.shutdown()
                raise

    def _use(self, leases: list[Lease]) -> None:
        self._leases = leases
        least = min(lease.bytes for lease in leases)
        self._room = min(least - least // limits.LEASE_SPARE, self._session.limits.get("loadBytes", limits.LEASE_BYTES))

    def _widen(self, count: int) -> None:
        """Take larger leases where much is to come from a tier; the tree, which is read first, has told whether it does."""
        if self._is_wide or self.tiers <= {"memory"} or count <= self._room:
            return
        self._is_wide = True
        larger = self._session.take_leases(limits.TIER_LEASES, limits.TIER_LEASE_BYTES)
        if larger and min(lease.bytes for lease in larger) > limits.LEASE_BYTES:
            self._use(larger)

    def _batches(self, targets: list[Target]) -> Iterator[Batch]:
        """Each fits its lease even if every box begins at a multiple of LEASE_ALIGNMENT; leases take turns.

        A Load takes all its boxes from one tier, and another node's are not in this one's memory: what this rank saved itself does
        not go with what others did, nor much of one rank's with another's.
        """
        turns = itertools.cycle(self._leases)
        boxes: list[tuple[dict[str, Any], Target, int, int]] = []
        used, source = 0, NEAR
        for target, box, begin, count in self._boxes(sorted(targets, key=lambda target: target.source)):
            parts = target.source != source and (source == NEAR or used > limits.LEAST_LEASE_BYTES)
            source = target.source
            if boxes and (parts or used + count > self._room or len(boxes) >= self._boxes_per_load):
                yield Batch(boxes, next(turns))
                boxes, used = [], 0
            boxes.append((box, target, begin, count))
            used += -(-count // limits.LEASE_ALIGNMENT) * limits.LEASE_ALIGNMENT
        if boxes:
            yield Batch(boxes, next(turns))

    def _boxes(self, targets: list[Target]) -> Iterator[tuple[Target, dict[str, Any], int, int]]:
        for target in targets:
            box: dict[str, Any] = {"name": target.name}
            if target.rank is not None:
                box["rank"] = target.rank
            if target.bytes <= self._room and target.offsets is None:
                yield target, box, 0, target.bytes
                continue
            offsets = target.offsets or (0,) * len(target.shape)
            begin, item = 0, dtypes.BYTES[target.dtype]
            for place, shape, count in rows(target.shape, offsets, item, self._room):
                yield target, box | {"offsets": place, "shape": shape}, begin, count
                begin += count

    def _ask(self, batch: Batch) -> None:
        parameters = {
            "step": self._step,
            "sequence": self._sequence,
            "boxes": [box for box, *_ in batch.boxes],
            "segments": [batch.lease.segment],
        }
        self._session.loads.send(CHECKPOINT + "Load", parameters)

    def _take(self, asked: deque[Batch]) -> None:
        """Wait for the oldest Load and copy what it brought."""
        batch = asked.popleft()
        reply, _ = self._session.loads.receive(timeout=limits.LOAD_SECONDS)
        self.tiers.add(str(reply.get("tier", "")))
        pieces = iter(reply["placed"])
        try:
            self._empty(batch, pieces)
        finally:
            for device in {target.keep.device for _, target, _, _ in batch.boxes if _is_on_gpu(target)}:
                sys.modules["torch"].cuda.current_stream(device).synchronize()  # the lease is the daemon's again

    def _empty(self, batch: Batch, pieces: Iterator[dict[str, Any]]) -> None:
        lease = batch.lease
        for box, target, begin, count in batch.boxes:
            done, item = 0, dtypes.BYTES[target.dtype]
            while done < count:
                piece = next(pieces)
                size, offset = int(piece["bytes"]), int(piece["offset"])
                right = piece["name"] == box["name"] and piece["segment"] == lease.segment
                if not right or size <= 0 or size % item or done + size > count or not 0 <= offset <= lease.bytes - size:
                    raise errors.ProtocolError(f"Load of '{box['name']}' ({count} bytes) placed {piece!r}")
                if target.cast:
                    tensors.convert(target.keep, (begin + done) // item, lease.address + offset, size, target.dtype)
                else:
                    tensors.move(target.address + begin + done, lease.address + offset, size)
                done += size
            self.bytes += count
    def _forgo(self, count: int) -> None:
        """Take the replies that are still to come, so that the next call gets its own."""
        for _ in range(count):
            try:
                self._session.loads.receive(timeout=limits.LOAD_SECONDS)
            except errors.WireError:
                continue
            except errors.CairnError:
                return  # the connection is gone


def _is_on_gpu(target: Target) -> bool:
    return target.cast and getattr(target.keep, "is_cuda", False) is True
