"""The trainer's handle: save, fence, restore. Names as in Orbax's CheckpointManager where it has them.

By default nothing here ends or hangs a trainer: a daemon that is absent, full or broken is warned about, its saves fail, and every
wait has a bound. Two things are raised always, since no training should go on for days without noticing: a state that cannot be
saved at all (UnsupportedTensor, InvalidShard), and a restore without a daemon, for starting over is not what was asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from . import attempt as attempts
from . import errors, limits, process
from .guard import Guard, Lazy
from .layout import Layouts, Replicated
from .link import Link
from .pickles import AllowPickle
from .restore import Objects, Wish
from .restore import restore as restore_state
from .saves import Failures, Save, level_named
from .sending import send
from .session import Who
from .wire import CHECKPOINT, OPERATIONS

log = logging.getLogger("cairn")

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_EVERY = {"global": "committed", "local": "local", "memory": "staged"}


class Checkpointer:
    """Saves one rank's state through the node's daemon, and restores it.

    Args:
        run: the training job's name, ``[A-Za-z0-9][A-Za-z0-9._-]{0,99}``: one history of checkpoints.
        rank, world_size, local_rank, local_world_size: default to RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, else one rank.
        socket: the daemon's; default: CAIRN_SOCKET, else where it usually listens.
        attempt: a token equal on all ranks of this launch and new for each launch; default: agreed on by the ranks (all of them
            must construct at the same time then).
        every: how often a save goes how far, in steps: ``{"memory": 1, "local": 10, "global": 500}``.
        replicated: plain tensors of a larger world that are equal on all ranks (True, or patterns of names): stored once.
            By default they are each rank's own.
        on_unavailable: "warn", or "raise" Unavailable at save() when there is no daemon.
        on_failure: "warn", or "raise" CheckpointFailed at the next save() after one that failed.
        max_without_commit: seconds; save() raises NoCommit when nothing was committed for longer.
    Raises:
        ValueError: a bad name or number. NoAttempt: the ranks cannot agree on a token.
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
        every: Mapping[str, int] | None = None,
        replicated: Replicated = False,
        on_unavailable: str = "warn",
        on_failure: str = "warn",
        max_without_commit: float | None = None,
    ) -> None:
        if not _RUN.fullmatch(run):
            raise ValueError(f"run '{run}' must be letters, digits, '.', '_' and '-', begin with a letter or digit, at most 100")
        for value, name in ((on_unavailable, "on_unavailable"), (on_failure, "on_failure")):
            if value not in ("warn", "raise"):
                raise ValueError(f"{name} is 'warn' or 'raise', not {value!r}")
        if every is not None and (not every or not set(every) <= set(_EVERY) or min(every.values()) < 1):
            raise ValueError(f"every has steps of at least 1 for some of {', '.join(sorted(_EVERY))}, not {dict(every)!r}")
        rank = process.number("RANK", rank, 0)
        world_size = process.number("WORLD_SIZE", world_size, 1)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below the world size {world_size}")
        self.run = run
        self.rank = rank
        self.world_size = world_size
        self._every = dict(every) if every is not None else None
        self._raise_unavailable = on_unavailable == "raise"
        self._raise_failure = on_failure == "raise"
        self._max_without_commit = max_without_commit
        token = attempt if attempt is not None else attempts.token(rank, world_size)
        self._counters = attempts.counters(token, run, rank)
        local = process.optional("LOCAL_RANK", local_rank)
        who = Who(run, rank, world_size, local, process.optional("LOCAL_WORLD_SIZE", local_world_size), token)
        this = weakref.ref(self)

        def fence() -> None:
            alive = this()
            if alive is not None:
                alive._fence_frozen()

        self._guard = Guard(fence)
        self._layouts = Layouts(world_size=world_size, guard=self._guard, replicated=replicated, rank=rank)
        self._last: Save | None = None
        self._failures = Failures()
        self._closed = False
        self._saving = threading.Lock()
        self._pid = os.getpid()
        self._absent_warned = False
        self._link = Link(str(socket) if socket is not None else limits.default_socket(), who, self._on_failed)
        self._link.start()
        process.register(self)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def failures(self) -> int:
        """How many saves have failed or never began."""
        return self._failures.count

    # Saving.

    def guard(self, optimizer: Any) -> None:
        """Copy what ``optimizer`` owns lazily from now on, and fence before each of its steps. See guard.Guard.add.

        What else changes parameters in place, as load_state_dict() or clamping them, belongs into ``with checkpointer.lock():``."""
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
    ) -> Save:
        """Save ``state`` as ``step``; return once its eager tensors and its plain values are staged.

        Args:
            step: the training step, 0 or more; the same step may be saved again.
            state: a tree of dicts, lists and tuples with tensors of any shape (torch on the CPU, DTensor, numpy), plain values, and
                objects that have state_dict(). Lazy tensors must not change until the fence.
            level: how far it goes: staged, local, global or committed; default: as ``every`` says, else committed.
            lazy: True or patterns of names: copied after save() has returned; the caller fences (``lock``). Adds to ``guard``.
            metadata: texts stored with the checkpoint.
        Returns:
            the save; where there is no daemon, one that has failed.
        Raises:
            UnsupportedTensor, InvalidShard: the state cannot be saved. CheckpointFailed, Unavailable, NoCommit: where asked for.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        upto = level_named(level) if level is not None else self._level_of(step)
        with self._saving:
            return self._save(step, upto, state, lazy, metadata)

    def _save(self, step: int, upto: str, state: Any, lazy: Lazy, metadata: Mapping[str, str] | None) -> Save:
        self._raise_due()
        if self._last is not None:
            self._link.fence(self._last)
        save = Save(step, upto)
        session = self._link.session
        attempt_try = self._counters.next_try(step)
        if session is None or self._closed:
            return self._unavailable(save)
        content = self._layouts.content(state, lazy)
        save._held = content.held
        save._lazy = content.lazy
        self._absent_warned = False
        self._last = save
        self._link.begin(save)
        try:
            reply = send(self._link, session, content, save, attempt_try, metadata)
            self._link.accept(save, str(reply["save"]), int(reply["bytes"]))
        except errors.InvalidShard as refusal:
            self._link.refuse(save, str(refusal))
            raise
        except errors.AttemptEnded as refusal:
            self._link.ended = refusal
            self._link.refuse(save, str(refusal))
        except errors.WireError as refusal:
            self._link.refuse(save, str(refusal))
        except (errors.CairnError, OSError, KeyError, TypeError, ValueError) as failure:
            self._link.lose(session, str(failure))
            self._link.refuse(save, str(failure))
        except BaseException as end:  # as ^C in mid-call: the reply that is still to come would be taken for the next call's
            self._link.lose(session, f"save() was interrupted by {type(end).__name__}")
            self._link.refuse(save, f"save() was interrupted by {type(end).__name__}")
            raise
        return save

    def _fence_frozen(self) -> None:
        """Wait, where a save has lazy tensors that are not copied yet."""
        save = self._last
        if save is not None and save._lazy is not None and not save.free and os.getpid() == self._pid:
            self._link.fence(save)

    def _unavailable(self, save: Save) -> Save:
        reason = "the checkpointer is closed" if self._closed else self._link.down
        if self._raise_unavailable:
            raise errors.Unavailable(f"step {save.step} cannot be saved: {reason}") from self._link.ended
        save._fail(reason)
        self._failures.note(save)
        if not self._absent_warned:  # once until the daemon is back: a step can take milliseconds
            self._absent_warned = True
            log.warning("cairn: step %d is not saved, nor those that follow: %s", save.step, reason)
        return save

    def _on_failed(self, save: Save) -> None:
        self._failures.note(save)
        log.warning("cairn: checkpoint of step %d failed: %s", save.step, save.reason)

    def _raise_due(self) -> None:
        if self._raise_failure:
            self.check_for_errors()
        bound = self._max_without_commit
        if bound is not None and time.monotonic() - self._link.last_commit > bound:
            why = self._link.down if self._link.session is None else "see check_for_errors()"
            raise errors.NoCommit(f"nothing was committed for {bound:g} s: {why}")

    def _level_of(self, step: int) -> str:
        if self._every is None:
            return "committed"
        due = [name for name in _EVERY if name in self._every]
        return _EVERY[next((name for name in due if step % self._every[name] == 0), due[-1])]

    # Waiting and asking.

    def should_save(self, step: int) -> bool:
        """Whether ``every`` asks for a save at this step; without it, always."""
        return self._every is None or any(step % period == 0 for period in self._every.values())

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
        self._failures.check()

    def steps(self) -> list[dict[str, Any]]:
        """The run's checkpoints as the daemon lists them (dev.cairn.Checkpoint.Steps), newest first by sequence.

        Raises:
            Unavailable: there is no daemon."""
        session = self._link.wait_for_session(limits.CONNECT_SECONDS)
        try:
            found = session.load_call("Steps", {"run": self.run}).get("steps", [])
        except errors.NoSuchRun:
            return []
        return [entry for entry in found if isinstance(entry, dict)]

    def all_steps(self) -> list[int]:
        """The committed steps, ascending."""
        return sorted({int(entry["step"]) for entry in self.steps() if entry["level"] == "committed"})

    def latest_step(self) -> int | None:
        """The newest committed step that is not superseded, by sequence: what restore() takes. None: there is none."""
        whole = [entry for entry in self.steps() if entry["level"] == "committed" and not entry["superseded"]]
        return int(max(whole, key=lambda entry: int(entry["sequence"]))["step"]) if whole else None

    def delete(self, step: int) -> None:
        """Delete a committed step on all tiers.

        Raises:
            NoSuchStep: it is not there. NotPermitted: it is the newest, or in use."""
        session = self._link.wait_for_session(limits.CONNECT_SECONDS)
        with session.loads_lock:
            session.loads.call(OPERATIONS + "Delete", {"run": self.run, "step": step})

    # Restoring.

    def restore(
        self,
        state: Any,
        step: int | None = None,
        *,
        strict: bool = True,
        allow_pickle: AllowPickle = False,
        objects: Objects = "own",
        timeout: float = limits.RESTORE_SECONDS,
    ) -> int | None:
        """Restore into ``state``, in place: its tensors are filled, its plain values set, load_state_dict() called.

        All ranks must call it, and get the same answer. Where it raises, tensors may hold parts of a step.

        Args:
            state: a dict or list as it was given to save(); what it lacks is added, what has another placement is resharded.
            step: default: the newest whole step.
            strict: raise Mismatch when a tensor is missing, or of another shape or dtype; else restore what fits.
            allow_pickle: see pickles.AllowPickle.
            objects: for a step of another world size; see restore.Objects.
            timeout: seconds to agree with the other ranks.
        Returns:
            the step, or None when the run has nothing to restore.
        Raises:
            Unavailable: no daemon. NoSuchStep: ``step`` is not there. Mismatch, WorldSizeChanged, PickleRefused, UnsupportedTensor,
            TimedOut."""
        if self._last is not None:
            self._link.fence(self._last)
        if self._closed:
            raise errors.Unavailable("the checkpointer is closed")
        session = self._link.wait_for_session(limits.CALL_SECONDS)
        try:
            return restore_state(session, self._counters, Wish(state, step, strict, allow_pickle, objects, timeout))
        except BaseException as failure:
            if session.loads.dead:
                self._link.lose(session, str(failure) or type(failure).__name__)
            raise

    # The end.

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
        self._link.close("the checkpointer was closed")
        if save is not None and not save.free:
            self._link.refuse(save, f"not staged {timeout:g} s after close()")

    def forked(self) -> None:
        self._link.forget()
        self._saving = threading.Lock()
        self._failures = Failures()
        self._last = None
