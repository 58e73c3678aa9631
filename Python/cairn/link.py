"""The link to the daemon over the life of a trainer: one session after another, and the thread that watches events.

Thread rules: the trainer's thread calls; the watch thread reads events, opens new sessions with backoff, and settles futures.
`changed` guards what both see. Order when a session is lost: hang up its socket, then fail its unstaged saves, then wake who waits
at the fence: the daemon must see the hang-up before memory may change.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from . import errors, limits
from .saves import ORDER, Save
from .session import Session, Who
from .streams import Stream

log = logging.getLogger("cairn")


class Link:
    """Holds the current session, if there is one, and all saves that have not ended."""

    def __init__(self, path: str, who: Who, on_failed: Callable[[Save], None]) -> None:
        self.path = path
        self.who = who
        self.changed = threading.Condition()
        self.session: Session | None = None
        self.down = f"the daemon at '{path}' has not opened the session yet: is it stopped, or is rank 0 not there yet?"
        self.ended: errors.CairnError | None = None
        self._number: int | None = None
        """The attempt's, once a daemon has told it: one that starts anew while the global tier is out may not know it."""
        self.last_commit = time.monotonic()
        self.events = 0
        self._on_failed = on_failed
        self._calling: Save | None = None
        self._saves: dict[str, Save] = {}
        self._early: dict[str, list[dict[str, Any]]] = {}
        self._closing = False
        self._warned = False
        self._opening: Session | None = None
        self._has_failed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect in the background, and keep at it; wait, bounded, for the outcome of the first try."""
        self._thread = threading.Thread(target=self._watch, name="cairn-watch", daemon=True)
        self._thread.start()
        with self.changed:
            self.changed.wait_for(lambda: self.session is not None or self._has_failed, limits.START_SECONDS)
            late = self.session is None and not self._has_failed
        if late:
            log.warning("cairn: no checkpoints yet: %s", self.down)

    def wait_for_session(self, timeout: float, *, opening: float = 0.0) -> Session:
        """The session, waiting for it; up to ``opening`` seconds where a daemon has taken the call and not answered yet.

        Raises:
            Unavailable: there is none within ``timeout`` seconds, or never will be.
        """
        begin = time.monotonic()
        with self.changed:
            # One that is hung up is about to be given up by the watch thread.
            while (self.session is None or self.session.is_hung_up()) and self.ended is None and not self._closing:
                bound = max(timeout, opening) if self._opening is not None else timeout
                left = begin + bound - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(min(left, 1.0))
            if self.session is None:
                raise errors.Unavailable(self.down) from self.ended
            return self.session

    # Saves.

    def begin(self, save: Save) -> None:
        with self.changed:
            self._calling = save

    def accept(self, save: Save, name: str, count: int) -> None:
        """The daemon has answered Save: its events find it from now on, and those that came before are applied."""
        with self.changed:
            save.id = name
            save.bytes = count
            self._calling = None
            if not save.done:
                self._saves[name] = save
            early = self._early.pop(name, [])
            self._early.clear()
        for event in early:
            self._apply(save, event)

    def refuse(self, save: Save, reason: str) -> None:
        """The save did not come to be."""
        with self.changed:
            self._calling = None
        self._fail(save, reason)

    def pending(self) -> list[Save]:
        with self.changed:
            return [save for save in self._saves.values() if not save.done]

    def fail(self, save: Save, reason: str) -> None:
        """End a save that cannot go on, unless it has ended."""
        self._fail(save, reason)

    def fence(self, save: Save) -> None:
        """Wait until ``save`` is staged or failed; give up when nothing of it was staged for the daemon's fence bound."""
        self._wait(save, lambda: save.free)

    def pass_by(self, save: Save, stream: Stream) -> None:
        """As ``fence``, of a save all of whose lazy tensors are streamed: wait until each copy is enqueued, and let the caller's
        current streams wait for the last."""
        self._wait(save, lambda: save.free or stream.enqueued)
        stream.order()

    def _wait(self, save: Save, is_free: Callable[[], bool]) -> None:
        if is_free():
            return
        session = self.session
        if session is not None and save.id is not None:
            session.hurry(save.id)
        with self.changed:
            session = self.session
            bound = session.fence_seconds if session is not None else limits.FENCE_SECONDS
            mark, deadline = save._progress, time.monotonic() + bound
            while not is_free():
                left = deadline - time.monotonic()
                if left <= 0:
                    if save._progress == mark:
                        break
                    mark, deadline = save._progress, time.monotonic() + bound
                    continue
                self.changed.wait(min(left, 1.0))
            if is_free():
                return
        reason = f"nothing of it was staged for {bound:g} s"
        if session is not None:
            self.lose(session, reason)
        self._fail(save, reason)

    def lose(self, session: Session, reason: str) -> None:
        """End a session that broke or that the client gave up; the watch thread opens the next one."""
        with self.changed:
            session.hang_up()
            if self.session is not session:
                return
            self.session = None
            self.down = reason
            lost = [save for save in self._saves.values() if not save.free]
            if self._calling is not None:
                lost.append(self._calling)
                self._calling = None
        for save in lost:
            self._fail(save, f"the session with the daemon ended before it was staged: {reason}")
        if not self._closing:
            log.warning("cairn: lost the daemon at '%s': %s; training goes on, reconnecting", self.path, reason)
        with self.changed:
            self.changed.notify_all()

    def farewell(self) -> None:
        """From here on the session's end is asked for, and no news: the daemon hangs up when it is told Close."""
        with self.changed:
            self._closing = True

    def close(self, reason: str) -> None:
        """End the session and the thread. Futures that are not done get Unavailable: nobody will tell."""
        with self.changed:
            self._closing = True
            session, self.session = self.session, None
            opening = self._opening
            self.down = reason
            left = list(self._saves.values())
            self._saves.clear()
            self.changed.notify_all()
        for each in (session, opening):
            if each is not None:
                each.hang_up()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(limits.CONNECT_SECONDS)
        if session is not None:
            session.shut()
        for save in left:
            save._abandon(reason)

    def forget(self) -> None:
        """In a forked child: close the descriptors and be without a daemon from now on. No lock of the parent's is taken."""
        held = (self.session, self._opening)
        self.changed = threading.Condition()
        self.session = self._opening = None
        self.ended = errors.Unavailable("this process is a forked child; the session belongs to its parent")
        self.down = str(self.ended)
        self._saves = {}
        self._closing = True
        self._thread = None
        for session in held:
            if session is not None:
                session.forget()

    # The watch thread.

    def _watch(self) -> None:
        backoff, is_first = limits.RECONNECT_FIRST_SECONDS, True
        while True:
            with self.changed:
                if self._closing or self.ended is not None:
                    return
                session = self.session
                if session is None and not is_first:
                    self.changed.wait(backoff * random.uniform(0.5, 1.0))
                    if self._closing:
                        return
            is_first = False
            if session is None:
                longer = min(backoff * 2, limits.RECONNECT_LAST_SECONDS)
                backoff = limits.RECONNECT_FIRST_SECONDS if self._try_open() else longer
                continue
            try:
                parameters, _ = session.watch.receive(timeout=None)
                self._event(parameters["event"])
            except (errors.CairnError, OSError, KeyError, TypeError, ValueError) as failure:
                self.lose(session, str(failure))
                session.shut()

    def _try_open(self) -> bool:
        session = Session(self.path, self.who, self._number)
        with self.changed:
            if self._closing:
                return False
            self._opening = session
        try:
            session.open()
        except (errors.CairnError, OSError) as failure:
            with self.changed:
                self._opening = None
                self._has_failed = True
                self.down = str(failure)
                if isinstance(failure, errors.AttemptEnded):
                    self.ended = failure
                self.changed.notify_all()
            if not self._closing and (not self._warned or self.ended is not None):
                self._warned = True
                log.warning("cairn: no checkpoints for now: %s", failure)
            return False
        self._number = session.limits.get("attempt")
        with self.changed:
            self._opening = None
            unwanted = self._closing
            if not unwanted:
                self.session = session
            unsettled = list(self._saves.values())
            self.changed.notify_all()
        if unwanted:
            session.shut()
            return False
        if self._warned or unsettled:
            log.info("cairn: connected to the daemon at '%s'", self.path)
        self._warned = False
        for save in unsettled:
            self._ask(session, save)
        return True

    def _ask(self, session: Session, save: Save) -> None:
        """After a reconnect: how far a save came meanwhile."""
        try:
            reply = session.load_call("Wait", {"save": save.id, "level": save.upto, "timeoutMs": 0})
        except errors.TimedOut as late:
            reply = late.parameters
        except errors.UnknownSave:
            reply = {"level": "failed", "reason": "the daemon does not know it any more"}
        except (errors.CairnError, OSError):
            return  # the session broke again: the next one asks
        self._apply(save, {"level": reply.get("level"), "reason": reply.get("reason")})

    def _event(self, event: dict[str, Any]) -> None:
        name, level = str(event["save"]), event["level"]
        if event["rank"] != self.who.rank and level not in ("failed", "committed"):
            return
        with self.changed:
            self.events += 1
            save = self._saves.get(name)
            if save is None:
                if self._calling is not None and len(self._early) < limits.EARLY_EVENTS:
                    kept = self._early.setdefault(name, [])
                    if len(kept) < limits.EARLY_EVENTS:
                        kept.append(event)
                return
        self._apply(save, event)

    def _apply(self, save: Save, event: dict[str, Any]) -> None:
        level = event["level"]
        if level == "failed":
            self._fail(save, str(event.get("reason") or "the daemon gave no reason"))
            return
        changed = save._changed() if ORDER.get(level, 0) > 0 else None
        if changed is not None:
            self._fail(
                save,
                f"tensor '{changed}' was changed in place before it was staged: what is stored may be half old and half new. "
                "Change lazily saved tensors inside `with checkpointer.lock():`",
            )
            return
        save._reach(level, int(event.get("totalBytes", save.bytes)), int(event.get("monotonicNs", time.monotonic_ns())))
        with self.changed:
            if save.level == "committed":
                self.last_commit = time.monotonic()
            if save.done and save.id is not None:
                self._saves.pop(save.id, None)
            self.changed.notify_all()

    def _fail(self, save: Save, reason: str) -> None:
        failed = save._fail(reason)
        with self.changed:
            if save.id is not None:
                self._saves.pop(save.id, None)
            self.changed.notify_all()
        if failed:
            self._on_failed(save)
