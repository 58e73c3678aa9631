"""The trainer's handle: save, fence, restore. Names as in Orbax's CheckpointManager where it has them.

By default nothing here ends or hangs a trainer: a daemon that is absent, full or broken is warned about, its saves fail, and every
wait has a bound. Two things are raised always, since no training should go on for days without noticing: a state that cannot be
saved at all (UnsupportedTensor, InvalidShard), and a restore without a daemon, for starting over is not what was asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from . import attempt as attempts
from . import autostart as autostarts
from . import errors, launch, limits, options, process
from .choice import Choice, Names
from .foreign import Objects
from .guard import Guard, Lazy
from .history import History
from .layout import Content, Layouts, Replicated, Unchanged
from .link import Link
from .pace import Pace, advised
from .pickles import AllowPickle
from .preemption import Preempted, Preemption
from .reactions import Reactions
from .restore import Restored, Wish
from .restore import restore as restore_state
from .saves import Failures, Save, level_named
from .scopes import Keyed, Scopes, Shared
from .sending import deliver, send
from .session import Session, Who
from .streams import Streams
from .wire import CHECKPOINT

log = logging.getLogger("cairn")


class Checkpointer(History):
    """Saves one rank's state through the node's daemon, and restores it.

    Args:
        run: the training job's name, ``[A-Za-z0-9][A-Za-z0-9._-]{0,99}``: one history of checkpoints.
        rank, world_size, local_rank, local_world_size: default to RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, else one rank.
            Where only the launcher says how many ranks share this node (Slurm, Open MPI, ...), that is found too.
        socket: the daemon's; default: CAIRN_SOCKET, else where it usually listens.
        attempt: a token equal on all ranks of this launch and new for each launch; default: agreed on by the ranks (all of them
            must construct at the same time then).
        every: how often a save goes how far, in steps: ``{"memory": 1, "local": 10, "global": 500}``. "auto": should_save() says
            when one is due, as often as wastes least by what the daemon measures of this run (``cairn advise``) and by ``mtbf``.
        mtbf: the job's mean time between failures, seconds.
        replicated: plain tensors of a larger world that are equal on all ranks (True, patterns of names, or a function that is
            given a name), or on some (a mapping from patterns of names to the ranks that hold them, this one among them, as a
            pipeline stage's; it alone: a whole that no other has). Each is written once, by one of these ranks. By default they
            are each rank's own.
        check_replicas: compare replicated tensors, DTensors' too, at each save by their CRC-32: a save in which one differs between
            ranks fails and names it. It reads them all before save() returns; else a difference is not noticed, and the copy of
            the rank that writes it is what is stored.
        shared: plain values that are equal on all ranks (True, or patterns of names), which is checked: restored by any number of
            ranks. Those that must be pickled are equal only if their pickles are.
        keyed: patterns of names, and this rank's key for the values under them, as ``{"loader.*": f"data-{shard}"}``: restored by
            the rank that names the same key. All others are their rank's own.
        verify_immutable: compare lazy tensors by their content, for what torch's version counters miss (fused optimizers, writes
            through ``.data``): the daemon reads them all before save() returns, and the save fails for all ranks, with the tensor's
            name, where one is another when it is copied. For finding such a bug: each save() then takes about as long as a copy.
        branch_from: for a new run, "run", "run@step" or "run@step.attempt-count": it begins with that step of another run of this
            user, the newest by default, with no copy of bytes where the filesystem can share them. Say it in each launch.
        on_unavailable: "warn", or "raise" Unavailable at save() when there is no daemon.
        on_failure: "warn", or "raise" CheckpointFailed at the next save() after one that failed.
        max_without_commit: seconds; save() raises NoCommit when nothing was committed for longer.
        streamed: tensors of the CPU (True, or patterns of names) that go the way of a GPU's: copied by this process into leases,
            while it trains, instead of read by the daemon. For what the daemon may not read, and for large ones that are not
            contiguous, which are else copied once more. See Docs/gpu.md.
        ring_bytes: of the leases that streamed tensors go through, pinned for a GPU; fewer where the daemon lends less. A GPU's
            optimizer waits until what is left to copy fits it.
        autostart: start a daemon of this user's where none answers, once for all ranks of the node; it stays when they end.
            Default: whether CAIRN_AUTOSTART is 1. See autostart.
    Raises:
        ValueError: a bad name or number. NoAttempt: the ranks cannot agree on a token. CannotStart: ``autostart`` could not.
    """

    def __init__(
        self,
        run: str,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        local_rank: int | None = None,
        local_world_size: int | None = None,
        socket: str | os.PathLike[str] | None = None,
        attempt: str | None = None,
        every: Mapping[str, int] | str | None = None,
        mtbf: float = limits.MTBF_SECONDS,
        replicated: Replicated = False,
        check_replicas: bool = False,
        shared: Shared = False,
        keyed: Keyed | None = None,
        verify_immutable: bool = False,
        branch_from: str | None = None,
        on_unavailable: str = "warn",
        on_failure: str = "warn",
        max_without_commit: float | None = None,
        streamed: Lazy = None,
        ring_bytes: int = limits.RING_BYTES,
        autostart: bool | None = None,
    ) -> None:
        self.run = options.check_run(run)
        self._reactions = Reactions(on_unavailable, on_failure, max_without_commit)
        self._every = options.Every(every)
        mtbf = options.mtbf_of(mtbf)
        self._branch = None if branch_from is None else options.branch_of(branch_from)
        self._scopes = Scopes(shared, keyed)
        self._verify = verify_immutable
        ring_bytes = options.ring_bytes_of(ring_bytes)
        rank = process.number("RANK", rank, 0)
        world_size = process.number("WORLD_SIZE", world_size, 1)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below the world size {world_size}")
        self.rank = rank
        self.world_size = world_size
        here = launch.local(local_rank, local_world_size, world_size)
        token = attempt if attempt is not None else attempts.token(rank, world_size)
        if autostarts.is_wanted(autostart):
            path = autostarts.ensure(str(socket) if socket is not None else os.environ.get("CAIRN_SOCKET"))
        else:
            path = str(socket) if socket is not None else limits.default_socket()
        self._pace = Pace(rank, world_size, lambda: advised(path, run, mtbf)) if self._every.is_auto else None
        self._counters = attempts.counters(token, world_size, run, rank, path)
        who = Who(run, rank, world_size, *here, token)
        this = weakref.ref(self)

        def fence() -> None:
            alive = this()
            if alive is not None:
                alive._fence_frozen()

        self._guard = Guard(fence)
        self._link = Link(path, who, self._reactions.failed)
        self._streams = Streams(self._link, ring_bytes)
        self._layouts = Layouts(
            world_size=world_size,
            rank=rank,
            guard=self._guard,
            replicated=replicated,
            scopes=self._scopes,
            check_replicas=check_replicas,
            node=launch.node(rank, *here, world_size),
            streamed=streamed,
            copies=self._streams.copies,
        )
        self.last_restore: Restored | None = None
        """What the last restore() that returned did; None: there was nothing to restore, or there was none."""
        self._last: Save | None = None
        self._recent: deque[Save] = deque(maxlen=limits.STAGINGS)
        self._preemption: Preemption | None = None
        self._fenced = True
        """Whether anything fenced since the last save that has lazy tensors."""
        self._unfenced_warned = False
        self._closed = False
        self._saving = threading.Lock()
        self._pid = os.getpid()
        self._link.start()
        process.register(self)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def failures(self) -> int:
        """How many saves have failed or never began."""
        return self._reactions.failures.count

    # Saving.

    def guard(self, optimizer: Any = None) -> None:
        """Copy what ``optimizer`` owns lazily from now on, and fence before each of its steps. See guard.Guard.add.

        Args:
            optimizer: one, wrapped or not, or several in a list, tuple or dict; default: each of torch's that takes a step from now
                on, so that the first save after its first step is the first lazy one.

        What else changes parameters in place, as load_state_dict() or clamping them, belongs into ``with checkpointer.lock():``."""
        if optimizer is None:
            self._guard.add_all()
        else:
            self._guard.add(optimizer)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Fence: what is done inside may change lazily saved tensors."""
        self._fence_frozen()
        yield

    def save(
        self,
        step: int,
        state: Any,
        *,
        level: str | None = None,
        lazy: Lazy = None,
        metadata: Mapping[str, str] | None = None,
        participants: Iterable[int] | None = None,
    ) -> Save:
        """Save ``state`` as ``step``; return once its eager tensors are staged. Plain values are saved as they are at the call.

        Args:
            step: the training step, 0 or more; the same step may be saved again.
            state: a tree of dicts, lists and tuples with tensors of any shape (torch, DTensor, numpy), plain values, and objects
                that have state_dict(). Lazy tensors must not change until the fence.
            level: how far it goes: staged, local, global or committed; default: as ``every`` says, else committed.
            lazy: True or patterns of names: copied after save() has returned; the caller fences (``lock``). Adds to ``guard``.
            metadata: texts stored with the checkpoint.
            participants: the ranks that take part, the same on each of them, rank 0 among them; default: all. The others must not
                call save(). In this attempt, the same step can then be saved again by the same ranks only.
        Returns:
            the save; where there is no daemon, one that has failed.
        Raises:
            UnsupportedTensor, InvalidShard: the state cannot be saved. CheckpointFailed, Unavailable, NoCommit: where asked for.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        upto = level_named(level) if level is not None else self._every.level(step)
        ranks = options.participants_of(participants, self.rank, self.world_size)
        if self._pace is not None:
            self._pace.saved()
        with self._saving:
            return self._save(step, upto, state, lazy, metadata, ranks)

    def _save(
        self, step: int, upto: str, state: Any, lazy: Lazy, metadata: Mapping[str, str] | None, ranks: list[int] | None
    ) -> Save:
        attempts.release_store()
        self._reactions.raise_due(self._link)
        if self._last is not None:
            self._warn_unfenced(self._last)
            self._link.fence(self._last)
        save = Save(step, upto)
        session = self._link.session
        attempt_try = self._counters.next_try(step)
        if session is None or self._closed:
            reason = "the checkpointer is closed" if self._closed else self._link.down
            return self._reactions.unavailable(save, reason, self._link.ended)
        content = self._layouts.content(state, lazy, ranks)
        self._reactions.available()
        self._hand_over(
            save, session, content.held, content.lazy, lambda: self._send(session, content, save, attempt_try, metadata, ranks)
        )
        stream = content.stream
        if stream is not None and save.id is not None and not save.free:
            save._stream = stream
            self._fenced = self._fenced and not stream.lazy
            self._streams.start(session, save, stream)
            if stream.waits:
                self._link.pass_by(save, stream)
        return save

    def _hand_over(
        self, save: Save, session: Session, held: list[Any], watched: Unchanged | None, call: Callable[[], dict[str, Any]]
    ) -> None:
        """From here on it is the last save, which the next fence waits for."""
        save._held, save._lazy = held, watched
        self._last = save
        self._recent.append(save)
        self._fenced = watched is None
        deliver(self._link, session, save, call)

    def _send(
        self,
        session: Session,
        content: Content,
        save: Save,
        attempt_try: int,
        metadata: Mapping[str, str] | None,
        ranks: list[int] | None,
    ) -> dict[str, Any]:
        self._begin_branch(session)
        return send(self._link, session, content, save, attempt_try, metadata, ranks, self._verify and content.lazy is not None)

    def _deliver(
        self,
        save: Save,
        send: Callable[[Session], dict[str, Any]],
        held: list[Any],
        watched: Unchanged | None,
        session: Session | None = None,
    ) -> None:
        """One save that another module describes (cairn.torch): ``send`` makes the calls, in ``session`` or in the one of now;
        ``held`` lives until it is staged, ``watched`` must not change. What the daemon refuses is a save that has failed.

        Raises:
            Unavailable: there is no daemon."""
        with self._saving:
            attempts.release_store()
            if self._last is not None:
                self._link.fence(self._last)
            current = session if session is not None else self._link.session
            if current is None or self._closed:
                raise errors.Unavailable("the checkpointer is closed" if self._closed else self._link.down) from self._link.ended
            self._begin_branch(current)
            self._hand_over(save, current, held, watched, lambda: send(current))

    def _fence_frozen(self) -> None:
        """Wait, where a save has lazy tensors that are not copied yet."""
        self._fenced = True
        save = self._last
        if save is None or save.free or os.getpid() != self._pid:
            return
        stream = save._stream
        if save._lazy is not None:
            self._link.fence(save)
        elif stream is not None and stream.lazy:
            self._link.pass_by(save, stream)

    def _warn_unfenced(self, last: Save) -> None:
        """Of a loop that trains between two saves, something fences: else what changes its weights is not what is guarded."""
        if not self._fenced and not self._unfenced_warned:
            self._unfenced_warned = True
            log.warning(
                "cairn: nothing fenced between the saves of step %d and the next one: no guarded optimizer took a step, and lock() "
                "was not called. If weights have changed meanwhile, that save may hold some of the new ones: guard() what steps",
                last.step,
            )

    def _begin_branch(self, session: Session) -> None:
        """Let the run begin where ``branch_from`` says. Every rank asks before it does anything else with the run, for the one that
        asks first need not be rank 0; what stands already is answered, in later launches too.

        Raises:
            NoSuchRun, NoSuchStep: there is nothing to branch from. NotPermitted: the run has steps of its own already."""
        branch = self._branch
        if branch is not None:
            session.load_call(
                "Branch", {"from": branch.run, "step": branch.step, "sequence": branch.sequence}, timeout=limits.BRANCH_SECONDS
            )  # fmt: skip
            self._branch = None

    # Waiting.

    def should_save(self, step: int) -> bool:
        """Whether ``every`` asks for a save at this step; without it, always. With "auto" the same on all ranks, which must all
        ask at the same steps: in a larger world one all_reduce of 8 bytes over torch.distributed, in a gloo group of its own.

        Raises:
            CannotAgree: with "auto", there is no process group of this world's size."""
        return self._every.is_due(step) if self._pace is None else self._pace.is_due()

    def wait_until_finished(self, *, timeout: float = limits.FINISH_SECONDS) -> None:
        """Wait until every save has ended, at its level or failed (which ``check_for_errors`` tells).

        Raises:
            TimeoutError: one has not, within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._link.changed:
            while True:
                left = self._link.pending()
                if not left:
                    return
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(f"after {timeout:g} s not finished: {left}")
                self._link.changed.wait(min(remaining, 1.0))

    def check_for_errors(self) -> None:
        """Raise CheckpointFailed for the first save that failed since the last call; the text counts the others."""
        self._reactions.failures.check()

    # Preemption.

    def watch_preemption(
        self, signals: Iterable[int] = (signal.SIGTERM, signal.SIGUSR1), *, grace: float = limits.GRACE_SECONDS, every: int = 1
    ) -> None:
        """From now on ``preempted`` tells whether a rank was sent one of these signals, which do not end the process any more; a
        handler that Python code has set already is called as well. Forked children and ``close`` have the former ones again.

        Args:
            signals: of the scheduler. Call again to watch for others.
            grace: seconds from the signal to the end; they count from when Python runs the handler, between two of its calls.
            every: ask the other ranks at each so many calls of preempted() only, the same on all ranks.
        Raises:
            CannotWatch: not in the main thread, or a handler is there that Python cannot call. ValueError: a wrong number."""
        if self._preemption is not None:
            self._preemption.remove()
            self._preemption = None
        self._preemption = Preemption(self.world_size, self._recent, signals, grace, every)

    def preempted(self) -> Preempted | None:
        """Whether the job is about to be ended, the same on all ranks: each must call this at the same steps. In a larger world it
        is one all_reduce of 16 bytes over torch.distributed, in a gloo group that the first call makes.

        Returns:
            None, or from then on how much time was left and whether a save fits into it; see Preempted.
        Raises:
            CannotWatch: watch_preemption() was not called, or there is no process group of this world's size."""
        if self._preemption is None:
            raise errors.CannotWatch("nothing watches for signals: call watch_preemption() first, on every rank")
        return self._preemption.ask()

    # Restoring.

    def restore(
        self,
        state: Any,
        step: int | None = None,
        *,
        strict: bool = True,
        only: Sequence[str] | None = None,
        names: Names | None = None,
        cast: bool = False,
        allow_pickle: AllowPickle = False,
        objects: Objects = "own",
        timeout: float = limits.RESTORE_SECONDS,
    ) -> int | None:
        """Restore into ``state``, in place: its tensors are filled, its plain values set, load_state_dict() called.

        All ranks must call it, and get the same answer. Where it raises, tensors may hold parts of a step.

        Args:
            state: a dict or list as it was given to save(); what it lacks is added, but for parts of distributed tensors, and what
                has another placement is resharded. Docs/resharding.md has the rules.
            step: default: the newest whole step.
            strict: raise Mismatch when a tensor is missing, or of another shape or dtype; else restore what fits (``last_restore``
                says what did not, and a warning some of it).
            only: patterns of names, of tensors and of values, as fnmatch has them: all else is left as it is.
            names: the names that tensors were saved under, where they differ; see choice.Names. Tensors are then found by name in
                the whole step, none is added, and ``{}`` says that no name differs.
            cast: convert floating (or complex) numbers to the dtype that the state's tensor has, as they come, without a copy.
            allow_pickle: see pickles.AllowPickle.
            objects: for a step of another world size, or that this rank took no part in; see foreign.Objects.
            timeout: seconds to agree with the other ranks.
        Returns:
            the step, or None when the run has nothing to restore.
        Raises:
            Unavailable: no daemon. NoSuchStep: ``step`` is not there. Mismatch, WorldSizeChanged, PickleRefused, UnsupportedTensor,
            TimedOut. ValueError: ``names`` or ``only`` is not what it should be."""
        self._fenced = True
        choice = Choice(names, only)
        if self._last is not None:
            self._link.fence(self._last)
        if self._closed:
            raise errors.Unavailable("the checkpointer is closed")
        session = self._link.wait_for_session(limits.CALL_SECONDS, opening=min(timeout, limits.OPEN_SECONDS))
        try:
            self._begin_branch(session)
            wish = Wish(state, step, strict, allow_pickle, objects, timeout, self._scopes.keys, choice, cast)
            restored = restore_state(session, self._counters, wish)
            self.last_restore = restored
            return None if restored is None else restored.step
        except BaseException as failure:
            if session.loads.dead:
                self._link.lose(session, str(failure) or type(failure).__name__)
            raise

    # The end.

    def finish(self) -> None:
        """Wait until all has ended that was saved, and close.

        Raises:
            CheckpointFailed: a save failed. TimeoutError: one has not ended in time. Closed it is all the same."""
        try:
            self.wait_until_finished()
            self.check_for_errors()
        finally:
            self.close()

    def close(self, *, timeout: float = limits.CLOSE_SECONDS) -> None:
        """Wait until the last save is staged, at most ``timeout`` seconds, then end the session. The daemon goes on by itself."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        save, session = self._last, self._link.session
        if save is not None and not save.free:
            deadline = time.monotonic() + timeout
            with self._link.changed:
                while not save.free and time.monotonic() < deadline:
                    self._link.changed.wait(min(1.0, max(0.01, deadline - time.monotonic())))
        self._link.farewell()
        if session is not None and (save is None or save.free):
            with contextlib.suppress(errors.CairnError, OSError), session.calls_lock:
                session.calls.call(CHECKPOINT + "Close", {}, timeout=limits.CONNECT_SECONDS)
        self._guard.remove()
        if self._preemption is not None:
            self._preemption.remove()
        self._link.close("the checkpointer was closed")
        self._streams.close()
        if save is not None and not save.free:
            self._link.refuse(save, f"not staged {timeout:g} s after close()")

    def forked(self) -> None:
        """Called in a forked child by the package itself: the child has no session, and leaves the parent's alone."""
        self._link.forget()
        self._streams.forget()
        if self._preemption is not None:
            self._preemption.remove()
        self._saving = threading.Lock()
        self._reactions.failures = Failures()
        self._last = None
