"""One restore of one rank: agree on a step, read its tree, load its tensors in place through leases, agree on the outcome.

All ranks of an attempt take the same turns: Choose(K), loads, Settle(K); where one of them could not load, all go again with K + 1
and an older step. Only when all have settled are plain values set and does restore() return.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import errors, limits, tensors, tree
from .attempt import Counters
from .pickles import AllowPickle
from .plan import Plan, Planner, Stored, Target, overlay, plain, rows, stored_of_record
from .session import Lease, Session
from .wire import CHECKPOINT

log = logging.getLogger("cairn")

Objects = str | Callable[[list[Any]], Any]
"""For a step saved by another number of ranks: "own" (refuse), "skip" (tensors only), or a function that is given the plain
values of every saved rank's tree, in rank order, and returns those to set."""


@dataclass(frozen=True)
class Wish:
    """What the caller of restore() asked for."""

    state: Any
    step: int | None
    strict: bool
    allow_pickle: AllowPickle
    objects: Objects
    timeout: float


@dataclass(frozen=True)
class Chosen:
    step: int
    sequence: int
    world_size: int
    objects: dict[tuple[int, str], int]  # bytes by rank and name


def restore(session: Session, counters: Counters, wish: Wish) -> int | None:
    """Restore into ``wish.state``; the step, or None where the run has nothing to restore."""
    cause: errors.CairnError | None = None
    for _ in range(limits.RESTORE_TRIES):
        turn = counters.next_restore()
        milliseconds = int(wish.timeout * 1000)
        try:
            choice = session.load_call(
                "Choose",
                {"restore": turn, "step": wish.step, "timeoutMs": milliseconds},
                timeout=wish.timeout + limits.CALL_SECONDS,
            )
        except (errors.NoSuchStep, errors.NoSuchRun):
            counters.restored()
            if cause is not None:
                raise cause from None
            if wish.step is None:
                return None
            raise
        step, sequence = int(choice["step"]), int(choice["sequence"])
        plan, failure = _load(session, wish, step, sequence)
        reply = session.load_call(
            "Settle",
            {"restore": turn, "ok": failure is None, "reason": None if failure is None else str(failure)[:1000]},
            timeout=wish.timeout + limits.CALL_SECONDS,
        )
        counters.restored()
        if failure is not None and not isinstance(failure, errors.WireError):
            raise failure
        if not reply.get("again", False):
            if failure is not None or plan is None:
                raise failure or errors.ProtocolError("Settle ended a restore that failed")
            plan.apply()
            return step
        cause = failure or errors.Unavailable(f"another rank could not load step {step}")
        log.warning("cairn: step %d could not be restored (%s); all ranks go back to an older one", step, cause)
    raise errors.Unavailable(f"no step could be restored in {limits.RESTORE_TRIES} tries") from cause


def _load(session: Session, wish: Wish, step: int, sequence: int) -> tuple[Plan | None, errors.CairnError | None]:
    """Load all of this rank's bytes; errors are returned, for the other ranks must be told first."""
    try:
        loader = Loader(session, step, sequence)
        try:
            plan = _plan(session, loader, wish, step, sequence)
            plan.check(wish.strict)
            for problem in plan.problems + plan.skipped:
                log.warning("cairn: restore of step %d: %s", step, problem)
            loader.load(plan.targets)
            plan.finish_bytes()
            return plan, None
        finally:
            session.give_back_leases()
    except errors.Unavailable:
        raise
    except errors.CairnError as failure:
        return None, failure
    except (KeyError, TypeError, ValueError, StopIteration, IndexError) as failure:
        unread = errors.ProtocolError(f"step {step} was not saved as this version understands it: {failure!r}")
        unread.__cause__ = failure
        return None, unread


def _plan(session: Session, loader: Loader, wish: Wish, step: int, sequence: int) -> Plan:
    ours = (tree.TREE, tree.VALUES, tree.PICKLE)
    about = session.load_call("Describe", {"step": step, "sequence": sequence, "names": list(ours)}, timeout=wish.timeout)
    sizes = {(int(item["rank"]), str(item["name"])): int(item["bytes"]) for item in about["objects"]}
    chosen = Chosen(step, sequence, int(about["worldSize"]), sizes)
    planner = Planner()
    if chosen.world_size == session.who.world_size:
        root, records, values = _tree(loader, chosen, session.who.rank, wish.allow_pickle)
        stored = iter([stored_of_record(record, session.who.rank) for record in records])
        planner.merge(wish.state, root, stored, iter(values), lambda key: tree.decode_key(key, wish.allow_pickle))
        return planner.plan
    if wish.objects == "own":
        raise errors.WorldSizeChanged(
            f'step {step} was saved by {chosen.world_size} ranks, this job has {session.who.world_size}: pass objects="skip" to '
            "restore the tensors that are not a single rank's, or a function that merges the ranks' plain values"
        )
    root, records, _ = _tree(loader, chosen, 0, wish.allow_pickle, values=False)
    names = dict(zip(tree.stored_names(root), (record["name"] for record in records), strict=True))
    whole = session.load_call("Describe", {"step": step, "sequence": sequence}, timeout=wish.timeout)
    found: dict[str, Stored] = {}
    private: set[str] = set()
    for shard in whole["shards"]:
        if shard.get("private"):
            private.add(shard["name"])
            continue
        shape = shard.get("globalShape") or shard["shape"]
        found.setdefault(shard["name"], Stored(shard["name"], "torch", shard["dtype"], tuple(shape), None, True))

    def find(name: str) -> Stored | None:
        return found.get(names.get(name, name))

    planner.by_name(wish.state, find)
    mine = {f"tensor '{name}' was not saved" for name in private}
    planner.plan.skipped = [
        f"{text} as a part of a whole, but as single ranks' own" for text in planner.plan.problems if text in mine
    ]
    planner.plan.problems = [text for text in planner.plan.problems if text not in mine]
    if callable(wish.objects):
        trees = []
        for rank in range(chosen.world_size):
            other, _, values = _tree(loader, chosen, rank, wish.allow_pickle)
            trees.append(plain(other, iter(values), lambda key: tree.decode_key(key, wish.allow_pickle)))
        planner.plan.sets += overlay(wish.state, wish.objects(trees))
    return planner.plan


def _tree(
    loader: Loader, chosen: Chosen, rank: int, allow: AllowPickle, *, values: bool = True
) -> tuple[Any, list[dict[str, Any]], list[Any]]:
    """One rank's stored tree: its NODE, its tensors' records, and its values."""

    def read(name: str) -> bytes:
        count = chosen.objects.get((rank, name))
        return b"" if count is None else loader.read(name, rank, count)

    content = read(tree.TREE)
    if not content:
        raise errors.Mismatch(f"rank {rank} of step {chosen.step} has no tree: it was not saved by this package")
    body = json.loads(content)
    if body["format"] != tree.FORMAT:
        raise errors.Mismatch(f"the tree of step {chosen.step} has format {body['format']}, this package reads {tree.FORMAT}")
    found = tree.decode_values(read(tree.VALUES) or b"[]", read(tree.PICKLE), allow) if values else []
    return body["root"], body["tensors"], found


@dataclass(slots=True)
class Batch:
    """The boxes of one Load, and where the bytes of each go: (box, address, bytes)."""

    boxes: list[tuple[dict[str, Any], int, int]]
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

    def read(self, name: str, rank: int, count: int) -> bytes:
        """An object's bytes."""
        if count == 0:
            return b""
        buffer = bytearray(count)
        anchor = (ctypes.c_char * count).from_buffer(buffer)
        self.load([Target(name, rank, "U8", None, (count,), ctypes.addressof(anchor), anchor, count)])
        return bytes(buffer)

    def load(self, targets: list[Target]) -> None:
        """Fill all targets."""
        self._widen(sum(target.bytes for target in targets))
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
        self._room = min(min(lease.bytes for lease in leases), self._session.limits.get("loadBytes", limits.LEASE_BYTES))

    def _widen(self, count: int) -> None:
        """Take larger leases where much is to come from a tier; the tree, which is read first, has told whether it does."""
        if self._is_wide or self.tiers <= {"memory"} or count <= self._room:
            return
        self._is_wide = True
        larger = self._session.take_leases(limits.TIER_LEASES, limits.TIER_LEASE_BYTES)
        if larger and min(lease.bytes for lease in larger) > self._room:
            self._use(larger)

    def _batches(self, targets: list[Target]) -> Iterator[Batch]:
        """Each fits its lease even if every box begins at a multiple of LEASE_ALIGNMENT; leases take turns."""
        turns = itertools.cycle(self._leases)
        boxes: list[tuple[dict[str, Any], int, int]] = []
        used = 0
        for box, address, count in self._boxes(targets):
            if used + count > self._room or len(boxes) >= self._boxes_per_load:
                yield Batch(boxes, next(turns))
                boxes, used = [], 0
            boxes.append((box, address, count))
            used += -(-count // limits.LEASE_ALIGNMENT) * limits.LEASE_ALIGNMENT
        if boxes:
            yield Batch(boxes, next(turns))

    def _boxes(self, targets: list[Target]) -> Iterator[tuple[dict[str, Any], int, int]]:
        for target in targets:
            box: dict[str, Any] = {"name": target.name}
            if target.rank is not None:
                box["rank"] = target.rank
            if target.bytes <= self._room and target.offsets is None:
                yield box, target.address, target.bytes
                continue
            offsets = target.offsets or (0,) * len(target.shape)
            address = target.address
            item = target.bytes // max(1, tensors.count(target.shape))
            for place, shape, count in rows(target.shape, offsets, item, self._room):
                yield box | {"offsets": place, "shape": shape}, address, count
                address += count

    def _ask(self, batch: Batch) -> None:
        parameters = {
            "step": self._step,
            "sequence": self._sequence,
            "boxes": [box for box, _, _ in batch.boxes],
            "segments": [batch.lease.segment],
        }
        self._session.loads.send(CHECKPOINT + "Load", parameters)

    def _take(self, asked: deque[Batch]) -> None:
        """Wait for the oldest Load and copy what it brought."""
        batch = asked.popleft()
        reply, _ = self._session.loads.receive(timeout=limits.LOAD_SECONDS)
        self.tiers.add(str(reply.get("tier", "")))
        pieces = iter(reply["placed"])
        lease = batch.lease
        for box, address, count in batch.boxes:
            done = 0
            while done < count:
                piece = next(pieces)
                size, offset = int(piece["bytes"]), int(piece["offset"])
                right = piece["name"] == box["name"] and piece["segment"] == lease.segment
                if not right or size <= 0 or done + size > count or not 0 <= offset <= lease.bytes - size:
                    raise errors.ProtocolError(f"Load of '{box['name']}' ({count} bytes) placed {piece!r}")
                tensors.move(address + done, lease.address + offset, size)
                done += size

    def _forgo(self, count: int) -> None:
        """Take the replies that are still to come, so that the next call gets its own."""
        for _ in range(count):
            try:
                self._session.loads.receive(timeout=limits.LOAD_SECONDS)
            except errors.WireError:
                continue
            except errors.CairnError:
                return  # the connection is gone
