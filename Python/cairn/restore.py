"""One restore of one rank: agree on a step, read its tree, load its tensors in place through leases, agree on the outcome.

All ranks of an attempt take the same turns: Choose(K), loads, Settle(K); where one of them could not load, all go again with K + 1
and an older step. Only when all have settled are plain values set and does restore() return.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import errors, limits, scopes, tree
from .attempt import Counters
from .choice import Catalog, Choice
from .foreign import Foreign, Objects
from .loader import Loader
from .pickles import AllowPickle
from .plan import Plan, Planner, Stored, stored_of_record
from .session import Session

log = logging.getLogger("cairn")

NOWHERE = 1 << 53
"""A step that nobody saves."""


@dataclass(frozen=True)
class Wish:
    """What the caller of restore() asked for."""

    state: Any
    step: int | None
    strict: bool
    allow_pickle: AllowPickle
    objects: Objects
    timeout: float
    keys: list[str]
    choice: Choice
    cast: bool


@dataclass(frozen=True)
class Restored:
    """What a restore did on this rank.

    ``missing``: names of the state's tensors that were not saved, which are as they were (``strict=False``). ``different``: texts
    on what was of another kind, shape or dtype; of another dtype it was converted, else left as it was. ``unexpected``: names of
    tensors that were saved and that the state does not hold; other ranks may. ``skipped``: names of tensors that were single ranks'
    own (``objects=``). ``bytes``: of tensors and values, as the daemon handed them over; ``tiers``: where it had them from.
    """

    step: int
    missing: list[str]
    different: list[str]
    unexpected: list[str]
    skipped: list[str]
    bytes: int
    tiers: set[str]


def restore(session: Session, counters: Counters, wish: Wish) -> Restored | None:
    """Restore into ``wish.state``; None where the run has nothing to restore."""
    counters.joined(session.limits.get("restores", 0))
    turns = Turns(session, counters, wish)
    try:
        return turns.take()
    except errors.CairnError:
        if turns.refusal is not None:
            raise turns.refusal from None
        raise


class Turns:
    """One rank's turns until all ranks agree.

    ``refusal``: why this rank can take no step at all, as where its state is of another shape. It goes on to say no to each until
    there is none left, for a rank that just left would let the others wait for it, and count restores otherwise than they do.
    """

    def __init__(self, session: Session, counters: Counters, wish: Wish) -> None:
        self._session = session
        self._counters = counters
        self._wish = wish
        self._timeout = wish.timeout
        self.refusal: Exception | None = None

    def take(self) -> Restored | None:
        cause: Exception | None = None
        end = float("inf")
        for _ in range(limits.RESTORE_TRIES):
            turn = self._counters.next_restore(self._wish.step)
            try:
                choice = self._call("Choose", restore=turn, step=self._wish.step, timeoutMs=int(self._timeout * 1000))
            except errors.NoSuchStep:
                # Settled by all too: a rank that starts later must find this restore under way, not one that ended before its time.
                again, _ = self._settle(turn, None)
                if again:
                    continue
                if cause is not None:
                    raise cause from None
                if self._wish.step is None:
                    return None
                raise
            step = int(choice["step"])
            done, failure = None, self.refusal
            if failure is None:
                done, failure = load_step(self._session, self._wish, step, int(choice["sequence"]))
            again, why = self._settle(turn, failure)
            if failure is None and not again and done is not None:
                plan, restored = done
                plan.apply()
                return restored
            if failure is not None and not isinstance(failure, errors.WireError) and self.refusal is None:
                self.refusal = failure
                self._timeout = min(self._timeout, limits.CALL_SECONDS)
                end = time.monotonic() + self._timeout
            if self.refusal is not None and self._session.who.world_size == 1:
                self._begin_anew()
                raise self.refusal
            if self.refusal is not None and time.monotonic() > end:
                raise self.refusal
            if not again:
                raise failure or errors.ProtocolError("Settle ended a restore that failed")
            cause = failure or errors.Unavailable(f"another rank could not load step {step}: {why}")
            if self.refusal is None:
                log.warning("cairn: step %d could not be restored (%s); all ranks go back to an older one", step, cause)
        raise errors.Unavailable(f"no step could be restored in {limits.RESTORE_TRIES} tries") from cause

    def _begin_anew(self) -> None:
        """Let the next restore begin at the newest step again: what was wrong was asked for, as a state of another shape, and is no
        reason to go back to an older step. A turn that finds nothing ends the series of those that failed."""
        turn = self._counters.next_restore(NOWHERE)
        try:
            self._call("Choose", restore=turn, step=NOWHERE, timeoutMs=int(self._timeout * 1000))
        except errors.NoSuchStep:
            self._settle(turn, None)

    def _settle(self, turn: int, failure: Exception | None) -> tuple[bool, str]:
        """Whether all go again, and why."""
        reason = None if failure is None else str(failure)[:1000]
        settled = self._call("Settle", restore=turn, ok=failure is None, reason=reason)
        again = bool(settled.get("again", False))
        self._counters.restored(agreed=not again)
        return again, str(settled.get("reason") or "no reason given")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._session.load_call(method, parameters, timeout=self._timeout + limits.CALL_SECONDS)


def load_step(session: Session, wish: Wish, step: int, sequence: int) -> tuple[tuple[Plan, Restored] | None, Exception | None]:
    """Load all of this rank's bytes; errors are returned, for the other ranks must be told first."""
    try:
        loader = Loader(session, step, sequence)
        try:
            plan = _plan(session, loader, wish, step, sequence)
            plan.check(wish.strict)
            for note in plan.notes():
                log.warning("cairn: restore of step %d: %s", step, note)
            loader.load(plan.targets)
            plan.finish_bytes()
            told = (list(plan.missing), plan.different, plan.unexpected, plan.skipped)
            return (plan, Restored(step, *told, loader.bytes, loader.tiers)), None
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
    except Exception as failure:  # the caller's, as of a function that merges
        return None, failure


def _plan(session: Session, loader: Loader, wish: Wish, step: int, sequence: int) -> Plan:
    def describe(**parameters: Any) -> dict[str, Any]:
        return session.load_call("Describe", {"step": step, "sequence": sequence, **parameters}, timeout=wish.timeout)

    about = describe(names=[tree.TREE, *scopes.NAMES])
    world_size, rank = int(about["worldSize"]), session.who.rank
    saved = sorted(int(item["rank"]) for item in about["objects"] if item["name"] == tree.TREE)
    if not saved:
        raise errors.Mismatch(f"step {step} has no tree: it was not saved by this package")
    planner = Planner(wish.choice, cast=wish.cast)

    def decode(key: Any) -> Any:
        return tree.decode_key(key, wish.allow_pickle)

    def read_tree(rank: int) -> tuple[Any, list[dict[str, Any]], list[str], Callable[[str], bytes]]:
        def read(name: str) -> bytes:
            count = sizes.get((rank, name))
            return b"" if count is None else loader.read(name, rank, count)

        body = json.loads(read(tree.TREE))
        if body["format"] not in tree.FORMATS:
            raise errors.Mismatch(
                f"the tree of step {step} has format {body['format']}, this package reads {tree.FORMAT} and older ones: upgrade it"
            )
        return body["root"], body["tensors"], body.get("keys", []), read

    catalog = Catalog(describe, saved, read_tree)
    is_own = world_size == session.who.world_size and rank in saved
    if not is_own:
        about = catalog.about
    sizes = {(int(item["rank"]), str(item["name"])): int(item["bytes"]) for item in about["objects"]}
    if is_own:
        root, records, _, read = read_tree(rank)
        mine = [stored_of_record(record, rank) for record in records]
        values = scopes.Values(root, read, wish.allow_pickle)
        planner.merge(wish.state, root, iter(mine), values, decode, catalog.find)
        if wish.choice.is_by_name:
            own = dict(zip(tree.stored_names(root), mine, strict=True))

            def find(name: str) -> Stored | None:
                return own.get(name) or catalog.find(name)

            planner.by_name(wish.state, find)
    else:
        if world_size != session.who.world_size:
            why = f"was saved by {world_size} ranks, this job has {session.who.world_size}"
        else:
            why = f"was saved by ranks {saved} only"
        foreign = Foreign(step, catalog, saved, read_tree, wish.choice, decode, wish.allow_pickle)
        foreign.plan(planner, wish.state, wish.objects, wish.keys, why)
    if not is_own or wish.choice.is_by_name:
        planner.plan.unexpected += [name for name in catalog.names if name not in planner.found and wish.choice.takes(name)]
    return planner.plan
