"""Tensors that only their own process can read, as a GPU's: copied into a ring of leases, and from there by the daemon into
its pool.

ring    a few leases, taken from the daemon at the first save of a session and pinned once (cudaHostRegister), so that copies from
        a GPU run by themselves
slot    one of them: filled (copies enqueued on a stream of their own, an event behind them), put (the event is over: Put says
        which bytes it holds), free again with Put's reply

One thread a save does this, in the order of the file. It waits for events and for replies, both without the interpreter's lock.
Tensors of the CPU may take the same way: their copies are over when they return.

(1) A streamed tensor may be changed once its last copy is enqueued and the stream that changes it waits for that copy: `order`.
(2) The ring's memory is unmapped only after every copy into it is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from . import errors, limits
from .plan import rows
from .session import Lease, Session
from .tensors import is_dense
from .wire import CHECKPOINT, Connection

if TYPE_CHECKING:
    from .link import Link
    from .saves import Save

log = logging.getLogger("cairn")

GIVEN_UP = (errors.UnknownSave, errors.Failed)
"""What Put answers of a save that has ended at the daemon: its event tells why."""


class Watched(Protocol):
    """See layout.Unchanged."""

    def changed(self) -> str | None: ...


@dataclass(slots=True)
class Source:
    """One streamed tensor, detached: its memory lives as long as this."""

    name: str
    tensor: Any
    bytes: int


@dataclass(slots=True)
class Slot:
    lease: Lease
    view: Any
    """The lease's bytes, as a tensor of uint8."""
    pieces: list[dict[str, Any]] = field(default_factory=list)
    used: int = 0
    events: list[Any] = field(default_factory=list)


def pin(lease: Lease) -> None:
    """Let a GPU copy to and from a lease by itself. Where that is refused, copies are as right, and slower."""
    if lease.pinned:
        return
    torch: Any = sys.modules["torch"]
    portable = 1  # for every device of the process
    code = int(torch.cuda.cudart().cudaHostRegister(lease.address, lease.bytes, portable))
    if code == 0:
        lease.pinned = True
    else:
        log.warning(
            "cairn: cudaHostRegister of %d bytes answered %d: copies from the GPU are slower (ulimit -l?)", lease.bytes, code
        )


class Copies:
    """Where the copies of one device's tensors are enqueued. Of the CPU: nowhere, they are over at once."""

    def __init__(self, device: Any) -> None:
        torch: Any = sys.modules["torch"]
        self._cuda: Any = torch.cuda if device.type == "cuda" else None
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self) -> None:
        """Copies see what the caller's current stream has computed so far."""
        if self._stream is not None:
            self._stream.wait_stream(self._cuda.current_stream(self._device))

    def copy(self, target: Any, source: Any) -> None:
        if self._stream is None:
            target.copy_(source)
        else:
            with self._cuda.stream(self._stream):
                target.copy_(source, non_blocking=True)

    def mark(self) -> Any:
        """An event behind all copies so far; None where there is nothing to wait for."""
        if self._stream is None:
            return None
        event = self._cuda.Event(blocking=True)  # whoever waits sleeps
        event.record(self._stream)
        return event

    def finish(self) -> None:
        """Wait until all copies are over."""
        if self._stream is not None:
            self._stream.synchronize()

    def order(self) -> None:
        """What the caller's current stream does from now on comes after all copies so far. The CPU does not wait."""
        if self._stream is not None:
            self._cuda.current_stream(self._device).wait_stream(self._stream)


class Ring:
    """The leases of one session that streamed tensors go through, and the connection that puts them."""

    def __init__(self, session: Session, count: int, pins: bool) -> None:
        """``count``: bytes of all slots together; less where other ranks have most of what the daemon lends."""
        torch: Any = sys.modules["torch"]
        self.session = session
        local = session.who.local_world_size or 1
        count = min(count, session.limits.get("leaseBytes", count) // (limits.RING_SHARE * local))
        number = max(limits.RING_SLOTS, -(-count // limits.RING_SLOT_BYTES))
        wanted = max(limits.LEAST_LEASE_BYTES, count // number // limits.LEASE_ALIGNMENT * limits.LEASE_ALIGNMENT)
        self.leases: list[Lease] = []
        self.slots: list[Slot] = []
        try:
            session.take_leases(number, wanted, self.leases)
            self.connection: Connection = session.attach()
            for lease in self.leases:
                if pins:
                    pin(lease)
                raw = (ctypes.c_char * lease.bytes).from_address(lease.address)
                self.slots.append(Slot(lease, torch.frombuffer(raw, dtype=torch.uint8)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.slots.clear()
        for lease in self.leases:
            lease.close()
        self.leases.clear()


class Stream:
    """One save's streamed tensors, in the file's order, on their way.

    ``lazy``: some of them must not change before ``order``. ``waits``: none must, so save() waits for that.
    ``enqueued``: every copy is; set under the link's lock.
    """

    def __init__(
        self, sources: Sequence[Source], copies: dict[Any, Copies], watched: Watched | None, *, waits: bool, lazy: bool
    ) -> None:
        self.waits = waits
        self.lazy = lazy
        self.enqueued = False
        self._sources = sources
        self._copies = copies
        self._watched = watched
        self._lock = threading.Lock()
        self._is_checked = False
        self._problem: str | None = None
        self._cuts: Iterator[tuple[Source, int, int, Any]] = iter(())
        self._cut: tuple[Source, int, int, Any] | None = None
        for device in {source.tensor.device for source in sources}:
            if device not in copies:
                copies[device] = Copies(device)
            copies[device].begin()

    @property
    def is_on_gpu(self) -> bool:
        return any(source.tensor.is_cuda for source in self._sources)

    def order(self) -> None:
        """Let the caller's current streams wait for the copies, all of which are enqueued: from then on tensors may change."""
        with self._lock:
            self._check()
        for device in {source.tensor.device for source in self._sources}:
            self._copies[device].order()

    def _check(self) -> None:
        """Once, before tensors may change, or before the last of them is put: whether one has changed already."""
        if self._is_checked:
            return
        self._is_checked = True
        name = None if self._watched is None else self._watched.changed()
        if name is not None:
            self._problem = (
                f"tensor '{name}' was changed in place before it was copied: what would be stored may be half old and half new. "
                "Change lazily saved tensors inside `with checkpointer.lock():`"
            )

    # The thread.

    def run(self, ring: Ring, link: Link, save: Save) -> None:
        """Copy and put everything; returns early where the save has ended.

        Raises:
            WireError: a Put was refused. Unavailable: the session ended. RuntimeError: a copy failed, or a tensor has changed.
        """
        free, filled, put = deque(ring.slots), deque[Slot](), deque[Slot]()
        largest = min(slot.lease.bytes for slot in ring.slots)
        torch: Any = sys.modules["torch"]
        self._cuts = self._all_cuts(min(largest, limits.BOX_BYTES))
        try:
            with torch.no_grad():
                self._cut = next(self._cuts, None)
                while (self._cut is not None or filled or put) and not save.free:
                    while put and ring.connection.has_input():
                        free.append(self._answered(ring, link, put))
                    if self._cut is not None and free:
                        filled.append(self._fill(free.popleft()))
                        if self._cut is None:
                            with link.changed:
                                self.enqueued = True
                                link.changed.notify_all()
                    elif filled:
                        slot = filled.popleft()
                        _settle(slot)
                        self._put(ring, save, slot, is_last=self._cut is None and not filled)
                        put.append(slot)
                    elif put:
                        free.append(self._answered(ring, link, put))
                while put and not ring.connection.dead:
                    self._answered(ring, link, put)
        except GIVEN_UP:
            while put and not ring.connection.dead:  # else the next save would take these answers for its own
                with contextlib.suppress(*GIVEN_UP):
                    self._answered(ring, link, put)
            raise
        finally:
            for device in {source.tensor.device for source in self._sources}:
                with contextlib.suppress(RuntimeError):  # a GPU that failed copies no more
                    self._copies[device].finish()
            for slot in ring.slots:
                slot.pieces, slot.used, slot.events = [], 0, []

    def _put(self, ring: Ring, save: Save, slot: Slot, *, is_last: bool) -> None:
        with self._lock:
            if is_last:
                self._check()
            if self._problem is not None:
                raise RuntimeError(self._problem)
        with ring.session.puts_lock:
            ring.connection.send(CHECKPOINT + "Put", {"save": save.id, "pieces": slot.pieces})

    def _answered(self, ring: Ring, link: Link, put: deque[Slot]) -> Slot:
        slot = put.popleft()
        with ring.session.puts_lock:
            ring.connection.receive(timeout=ring.session.fence_seconds, going=lambda: link.events)
        slot.pieces, slot.used = [], 0
        return slot

    def _fill(self, slot: Slot) -> Slot:
        """Enqueue copies into a slot until it is full or nothing is left, and events behind them."""
        devices = set()
        while self._cut is not None and len(slot.pieces) < limits.PIECES_PER_PUT:
            source, begin, count, part = self._cut
            tensor = source.tensor
            room = slot.lease.bytes - slot.used
            if part is not None:  # a box of a tensor whose bytes are not in order: whole, at a place where its elements may begin
                slot.used += -slot.used % 16
                room = slot.lease.bytes - slot.used
                if count > room:
                    break
                target = slot.view[slot.used : slot.used + count].view(tensor.dtype).view(part.shape)
                self._copies[tensor.device].copy(target, part)
                taken = count
            else:
                taken = min(count, room)
                if taken == 0:
                    break
                flat = tensor.view(-1).view(slot.view.dtype)
                self._copies[tensor.device].copy(slot.view[slot.used : slot.used + taken], flat[begin : begin + taken])
            devices.add(tensor.device)
            slot.pieces.append(
                {"name": source.name, "begin": begin, "bytes": taken, "segment": slot.lease.segment, "offset": slot.used}
            )
            slot.used += taken
            self._cut = (source, begin + taken, count - taken, None) if taken < count else next(self._cuts, None)
        slot.events = [event for event in (self._copies[device].mark() for device in devices) if event is not None]
        return slot

    def _all_cuts(self, box_bytes: int) -> Iterator[tuple[Source, int, int, Any]]:
        """(source, first byte, bytes, box): of a dense tensor all at once and no box, of another box by box in row-major order."""
        for source in self._sources:
            tensor = source.tensor
            if is_dense(tensor):
                yield source, 0, source.bytes, None
                continue
            begin, shape = 0, tuple(tensor.shape)
            for place, part, count in rows(shape, (0,) * len(shape), tensor.element_size(), box_bytes):
                box = tuple(slice(at, at + length) for at, length in zip(place, part, strict=True))
                yield source, begin, count, tensor[box]
                begin += count


def _settle(slot: Slot) -> None:
    """Wait until the copies into a slot are over."""
    for event in slot.events:
        event.synchronize()
    slot.events = []


class Streams:
    """A Checkpointer's ring, and the thread that streams its last save."""

    def __init__(self, link: Link, ring_bytes: int) -> None:
        self.copies: dict[Any, Copies] = {}
        self._link = link
        self._ring_bytes = ring_bytes
        self._ring: Ring | None = None
        self._thread: threading.Thread | None = None

    def start(self, session: Session, save: Save, stream: Stream) -> None:
        """Stream a save that the daemon has accepted. One before it has ended by now: its fence was waited for."""
        before = self._thread
        self._thread = threading.Thread(target=self._run, args=(session, save, stream, before), name="cairn-stream", daemon=True)
        self._thread.start()

    def _run(self, session: Session, save: Save, stream: Stream, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        link = self._link
        try:
            ring = self._ring
            if ring is None or ring.session is not session:
                if ring is not None:
                    ring.close()
                self._ring = None
                self._ring = ring = Ring(session, self._ring_bytes, stream.is_on_gpu)
            elif stream.is_on_gpu:
                for slot in ring.slots:
                    pin(slot.lease)
            stream.run(ring, link, save)
        except GIVEN_UP as failure:
            link.fail(save, str(failure))
        except Exception as failure:
            # The daemon must not wait for the rest, nor take what it has for whole.
            reason = f"streaming step {save.step} failed: {failure}"
            link.lose(session, reason)
            link.fail(save, reason)
        if session.is_hung_up() and self._ring is not None:
            self._ring.close()
            self._ring = None

    def close(self) -> None:
        """Once the last save has ended and the session is closed."""
        thread = self._thread
        if thread is not None:
            thread.join(limits.CONNECT_SECONDS)
            if thread.is_alive():
                return  # its copies may still be under way: the ring stays
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def forget(self) -> None:
        """In a forked child: the ring and the GPU are the parent's."""
        self._ring = None
        self._thread = None
