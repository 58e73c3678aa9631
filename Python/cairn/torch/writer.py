"""DCP's StorageWriter and AsyncStager on Cairn.

dcp.save        write_data   sends the parts that the plan left to this rank as an ordinary save; the coordinator's wait for
                finish       which brings `.metadata`, and returns when the step is committed
dcp.async_save  stage        a held save of all that this rank has, for neither step nor plan is known yet; its Future is staging
                write_data   seals it, without what the plan left to other ranks
                finish       as above: the coordinator seals last, so nothing is committed that lacks `.metadata`

The planner sees the caller's own tensors, for it needs only their shapes; plain values are copied, for it pickles them later.
"""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult

from .. import errors, limits, placement, tensors
from ..checkpointer import Checkpointer
from ..guard import Lazy
from ..layout import Unchanged
from ..saves import Save, level_named
from ..session import Session
from ..wire import CHECKPOINT
from .names import checkpointer_of, is_step, step_of
from .stored import FRAME, METADATA, Part, decide_lazy, file_of, part_of, places

log = logging.getLogger("cairn")

HELD = 2
"""Held saves that a rank may have in the daemon (EngineLimits.heldPerRank): the one being planned, and the one staged behind it."""

_FAR = 1 << 40
"""Larger than any offset that is to come: `.metadata` with it is as long as it can be."""

_held_numbers = itertools.count(1)


@dataclass
class Held:
    """What ``stage`` gave to the daemon."""

    save: Save
    session: Session
    parts: dict[str, Part]
    values: set[str]
    """FQNs of what is no tensor."""
    bytes: int
    """Of all shards, as the daemon counts them."""


@dataclass
class Work:
    """One pass of DCP through the writer; each runs in a thread of its own."""

    step: int | None = None
    held: Held | None = None
    rank: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    entries: dict[str, bytes] = field(default_factory=dict)
    plan: SavePlan | None = None
    attempt_try: int = 0


class CairnWriter(StorageWriter, AsyncStager):  # type: ignore[misc]
    """Saves what DCP plans as steps of a Cairn run. Make one for the run and give it to each ``dcp.save`` or ``dcp.async_save``.

    Args:
        run: the run's name, or a Checkpointer of it.
        step: the step of the next saves; default: the number at the end of ``checkpoint_id``.
        level: how far a save goes before ``finish`` returns and ``upload_completion`` is set: staged, local, global or committed.
        lazy: for async_save: True or patterns of FQNs, which are copied after the call. Their tensors must not change before
            ``staging_completion``, or ``guard``'s fence. What a guarded optimizer owns is lazy without this; all else is copied
            before async_save returns.
        participants: the ranks that take part, where the process group is not the world; see Checkpointer.save.
        timeout: seconds that ``finish`` waits for the level.
    """

    def __init__(
        self,
        run: str | Checkpointer,
        *,
        step: int | None = None,
        level: str = "committed",
        lazy: Lazy = None,
        participants: Sequence[int] | None = None,
        timeout: float = limits.FINISH_SECONDS,
    ) -> None:
        super().__init__()
        self.checkpointer = checkpointer_of(run)
        self.level = level_named(level)
        self.lazy = lazy
        self.participants = sorted(participants) if participants is not None else None
        self.timeout = timeout
        self._step = step
        self._waiting: deque[Held] = deque()
        self._open: deque[Held] = deque()
        self._registered: tuple[str, list[dict[str, Any]], dict[str, Any]] | None = None
        self._thread = threading.local()

    def guard(self, optimizer: Any) -> None:
        """See Checkpointer.guard: what the optimizer owns is copied lazily, and fenced before each of its steps."""
        self.checkpointer.guard(optimizer)

    def __reduce__(self) -> Any:
        raise errors.NotSupported(
            CHECKPOINT + "NotSupported",
            {"feature": "async_save in a process of its own: the daemon is that process. Use AsyncCheckpointerType.THREAD"},
        )

    # AsyncStager.

    _synchronize_after_execute = False

    def stage(self, state_dict: dict[str, Any], **_: Any) -> Future[dict[str, Any]]:
        """Give this rank's tensors to the daemon; return once it has accepted them, and copied those that are not lazy.

        Returns:
            a Future, done when all is copied: then every tensor may change.
        Raises:
            UnsupportedTensor: a tensor cannot be saved. Unavailable: there is no daemon. CheckpointFailed: it refused.
        """
        self._give_up_oldest()
        flat, _mappings = flatten_state_dict(state_dict)
        parts, tensor_of, values = [], {}, set()
        for name, node in flat.items():
            if not isinstance(node, torch.Tensor):
                values.add(name)
            elif not placement.is_distributed(node) or node.device_mesh.get_coordinate() is not None:
                whole, offsets, _shape = placement.box_of(node)
                parts.append(part_of(name, placement.resolve(node), whole, offsets))
                tensor_of[name] = node
        stored = [part for part in parts if part.is_stored]
        ckpt = self.checkpointer
        lazy = decide_lazy(stored, ckpt._guard, self.lazy)
        watched = Unchanged([tensor_of[part.name] for part in lazy], lazy) if lazy else None
        save = Save(-1, "staged")
        keep = [parts, [tensor_of[part.name] for part in stored]]
        held: list[Held] = []

        def send(session: Session) -> dict[str, Any]:
            layout, count = self._register(session, stored)
            held.append(Held(save, session, {part.name: part for part in parts}, values, count))
            number = next(_held_numbers)
            return self._call(session, "Save", {"try": number, "layout": layout, "hold": True, "participants": self.participants})

        ckpt._deliver(save, send, keep, watched)
        self._raise_failed(save)
        self._waiting.append(held[0])
        self._open.append(held[0])
        staged: Future[dict[str, Any]] = Future()
        copied = _with_values_copied(state_dict)

        def done(future: Future[Any]) -> None:
            failure = future.exception()
            if failure is None:
                staged.set_result(copied)
            else:
                staged.set_exception(failure)

        save.staged.add_done_callback(done)
        return staged

    def synchronize_staging(self) -> None:
        """Wait until what was staged last may change."""
        if self._open:
            self._open[-1].save.wait("staged", timeout=self.timeout)

    def close(self) -> None:
        """Let go of what was staged and never saved. The Checkpointer stays open: it may serve others."""
        while self._open:
            self._discard(self._open[0])

    def _give_up_oldest(self) -> None:
        """One that DCP left, as where a rank's planning failed, would else keep its memory in the daemon."""
        while len(self._open) >= HELD:
            log.warning("cairn: a checkpoint that was staged and never saved is given up")
            self._discard(self._open[0])

    def _discard(self, held: Held) -> None:
        for kept in (self._open, self._waiting):
            if held in kept:
                kept.remove(held)
        if held.save.level != "failed" and not held.session.is_hung_up():
            try:
                self._call(held.session, "Seal", {"save": held.save.id, "discard": True})
            except errors.CairnError as refusal:
                log.info("cairn: %s was gone already: %s", held.save.id, refusal)

    # StorageWriter.

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """The next save is that of ``checkpoint_id``, of what was staged first, if anything was."""
        work = Work(step=self._step if checkpoint_id is None else step_of(checkpoint_id))
        if self._waiting:
            work.held = self._waiting.popleft()
        self._thread.work = work

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise errors.NotSupported(
                CHECKPOINT + "NotSupported", {"feature": "use_collectives=False: equal tensors are stored once"}
            )
        work = self._begun()
        if work.step is None:
            raise ValueError("which step is it? Give checkpoint_id='step-1200', or CairnWriter(step=…)")
        work.rank = self.checkpointer.rank
        self._is_coordinator = is_coordinator

    def storage_meta(self) -> StorageMeta | None:
        return self._meta(self._begun())

    def _meta(self, work: Work) -> StorageMeta:
        return StorageMeta(checkpoint_id=f"{self.checkpointer.run}/step-{work.step}")

    def _begun(self) -> Work:
        """This save's, where DCP was given no checkpoint_id too: then it does not call ``reset``."""
        work = getattr(self._thread, "work", None)
        if work is None or work.plan is not None:
            self.reset()
        return self._work

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        expected = self.checkpointer.world_size if self.participants is None else len(self.participants)
        if len(plans) != expected:
            raise ValueError(f"{len(plans)} ranks take part, not {expected}: name them, as CairnWriter(…, participants=[0, 1])")
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """Send this rank's part; the coordinator's goes with ``finish``."""
        work = self._work
        work.plan = plan
        self._collect(work, plan, planner)
        assert work.step is not None
        work.attempt_try = self.checkpointer._counters.next_try(work.step)
        start = 0 if self._is_coordinator else self._send(work)[1]
        future: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        future.set_result(self._results(work, start))
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Send the coordinator's part with `.metadata`, and wait until the step is as far as it is to go.

        Raises:
            CheckpointFailed: it failed, on whichever rank. TimeoutError: it took more than ``timeout``."""
        work = self._work
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_meta = self._meta(work)
        others = {result.index: result.storage_data for part in results for result in part}

        def rendered(start: int) -> bytes:
            metadata.storage_data = others | {result.index: result.storage_data for result in self._results(work, start)}
            return pickle.dumps(metadata)

        # Where data begins in this rank's file depends on how long `.metadata` is, in which it is said. What follows a pickle is
        # not read.
        count = len(rendered(_FAR))
        start = self._ask_start(work, count)
        save, _ = self._send(work, rendered(start).ljust(count, b"\0"))
        save.wait(self.level, timeout=self.timeout)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        return is_step(checkpoint_id)

    # What is sent.

    @property
    def _work(self) -> Work:
        work: Work = self._thread.work
        return work

    def _collect(self, work: Work, plan: SavePlan, planner: SavePlanner) -> None:
        """The parts and entries that the plan leaves to this rank."""
        held = work.held
        if held is not None and (
            type(planner).resolve_data is not DefaultSavePlanner.resolve_data
            or type(planner).transform_object is not DefaultSavePlanner.transform_object
        ):
            raise errors.UnsupportedTensor(
                f"{type(planner).__name__} changes data as it is saved, and async_save stages before that: use dcp.save"
            )
        for item in plan.items:
            name = item.index.fqn
            if item.type == WriteItemType.BYTE_IO:
                if held is not None and name not in held.values:
                    raise errors.UnsupportedTensor(
                        f"entry '{name}' holds tensors that were not staged: save with flatten_state_dict=True"
                    )
                entry: Any = planner.resolve_data(item)
                work.entries[name] = bytes(entry.getbuffer())
                continue
            assert item.tensor_data is not None
            whole, chunk = tuple(item.tensor_data.size), item.tensor_data.chunk
            if name in work.parts:
                raise errors.UnsupportedTensor(f"tensor '{name}' has several parts on rank {work.rank}, of which Cairn stores one")
            part = None if held is None else held.parts.get(name)
            if held is None:
                part = part_of(name, planner.resolve_data(item), whole, tuple(chunk.offsets))
            same = part is not None and (part.whole, part.shape, part.dtype) == (
                whole,
                tuple(chunk.sizes),
                item.tensor_data.properties.dtype,
            )
            if part is None or not same or (part.bytes and part.offsets != tuple(chunk.offsets)):
                raise errors.UnsupportedTensor(f"tensor '{name}' is planned as another part than this rank has of it")
            work.parts[name] = part

    def _stored(self, work: Work) -> list[Part]:
        """In the order of registration."""
        if work.held is None:
            return [part for part in work.parts.values() if part.is_stored]
        return [part for name, part in work.held.parts.items() if name in work.parts and part.is_stored]

    def _results(self, work: Work, start: int) -> list[WriteResult]:
        """Of each item of the plan, where it is: in which rank's file, from where on, how many bytes."""
        assert work.plan is not None
        found, at = places(self._stored(work))
        for name, entry in work.entries.items():
            found[name] = (at, len(entry))
            at += len(entry)
        file = file_of(work.rank)
        results = []
        for item in work.plan.items:
            offset, count = found.get(item.index.fqn, (0, 0))  # an empty part is nowhere
            info = _StorageInfo(file, start + offset, count)
            results.append(WriteResult(index=item.index, size_in_bytes=count, storage_data=info))
        return results

    def _ask_start(self, work: Work, count: int) -> int:
        """Where data will begin in the coordinator's file, with `.metadata` of ``count`` bytes."""
        session = self._session(work)
        parameters, method, _ = self._request(session, work, b"\0" * count)
        return int(self._call(session, method, parameters | {"plan": True})["dataStart"])

    def _send(self, work: Work, metadata: bytes | None = None) -> tuple[Save, int]:
        """Make it a save, sealed where it was staged; the reply comes when the daemon needs no entry any more."""
        assert work.step is not None
        session = self._session(work)
        save = Save(work.step, self.level)
        reply: dict[str, Any] = {}

        def send(session: Session) -> dict[str, Any]:
            parameters, method, keep = self._request(session, work, metadata)
            reply.update(self._call(session, method, parameters))
            del keep
            return reply

        keep = [work.parts, work.entries, metadata]
        self.checkpointer._deliver(save, send, keep, None, session=session if work.held is not None else None)
        if work.held is not None and work.held in self._open:
            self._open.remove(work.held)
        self._raise_failed(save)
        return save, int(reply["dataStart"])

    def _session(self, work: Work) -> Session:
        if work.held is None:
            return self.checkpointer._link.wait_for_session(limits.CALL_SECONDS)
        if work.held.session.is_hung_up():
            raise errors.Unavailable(
                "the daemon, or the session with it, ended after the checkpoint was staged and before it was planned"
            )
        return work.held.session

    def _request(self, session: Session, work: Work, metadata: bytes | None) -> tuple[dict[str, Any], str, list[bytes]]:
        """Save's or Seal's parameters, the method, and what must live until the reply."""
        keep = [*work.entries.values(), *([] if metadata is None else [metadata])]
        parameters: dict[str, Any] = {
            "step": work.step,
            "try": work.attempt_try,
            "upto": self.level,
            "objects": [_message(name, entry) for name, entry in work.entries.items()],
        }
        if metadata is not None:
            parameters["files"] = [_message(METADATA, metadata)]
        if work.held is None:
            parameters["layout"], _ = self._register(session, self._stored(work))
            parameters["participants"] = self.participants
            return parameters, "Save", keep
        dropped = [name for name, part in work.held.parts.items() if part.is_stored and name not in work.parts]
        parameters["save"] = work.held.save.id
        parameters["drop"] = [prefix + name for name in dropped for prefix in ("", FRAME)]
        return parameters, "Seal", keep

    def _register(self, session: Session, parts: Sequence[Part]) -> tuple[str, int]:
        """The layout of these parts; registered anew where anything of them differs from the last."""
        shards = [shard for part in parts for shard in part.shards()]
        known = self._registered
        if known is None or known[0] != session.id or known[1] != shards:
            known = self._registered = session.id, shards, self._call(session, "Register", {"shards": shards})
            _, count = places(parts)
            if int(known[2]["bytes"]) != count:
                raise errors.ProtocolError(
                    f"the daemon counts {known[2]['bytes']} bytes of what are {count}: it orders a file otherwise"
                )
        return str(known[2]["layout"]), int(known[2]["bytes"])

    def _call(self, session: Session, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        link = self.checkpointer._link
        with session.calls_lock:
            return session.calls.call(CHECKPOINT + method, parameters, timeout=session.fence_seconds, going=lambda: link.events)

    @staticmethod
    def _raise_failed(save: Save) -> None:
        if save.level == "failed":
            raise errors.CheckpointFailed(save.step, save.reason or "no reason was given", save.id)


def _message(name: str, data: bytes) -> dict[str, Any]:
    source = {"memory": [{"address": tensors.address_of_bytes(data), "bytes": len(data)}] if data else []}
    return {"name": name, "scope": "rank", "bytes": len(data), "source": source}


def _with_values_copied(node: Any) -> Any:
    """The same containers around the same tensors, all else copied."""
    if isinstance(node, torch.Tensor):
        return node
    if isinstance(node, dict):
        copied = {key: _with_values_copied(child) for key, child in node.items()}
        return copied if type(node) is dict else _like(node, copied)
    if type(node) in (list, tuple):
        return type(node)(_with_values_copied(child) for child in node)
    return copy.deepcopy(node)


def _like(node: dict[Any, Any], copied: dict[Any, Any]) -> Any:
    """A dict of the same class."""
    made = copy.copy(node)
    made.update(copied)
    return made
