"""The attempt's token: equal on all ranks of one launch of the job, never equal between two launches.

In this order: CAIRN_ATTEMPT; 128 random bits of rank 0, sent over torch's initialized process group, between jax's processes or
over the TCPStore at MASTER_ADDR and MASTER_PORT; Slurm's job, step and restart count. A world of one draws its own. torchelastic's
variables alone are not used: its run id defaults to `none`, and nodes disagree on restart counts.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from datetime import timedelta
from typing import Any

from .errors import NoAttempt

STORE_SECONDS = 60.0
"""Ranks start within seconds of each other; one that has not come by then does not come."""

_drawn: dict[tuple[int, int], str] = {}
_stores: list[Any] = []
"""Stores that this process serves: see ``release_store``."""


class Counters:
    """What this process counted in one attempt: tries of each step, and restores. They outlive a Checkpointer."""

    TRIES = 100
    """Of one step between two restores: their numbers begin anew after each restore, so that a rank that missed a save before it
    is at one with the others again."""

    ROUNDS = 9_000
    """Then they begin again: the daemon takes tries up to a million."""

    def __init__(self) -> None:
        self.restores = 0
        self._tries: dict[int, int] = {}
        self._first = 0
        self._asked: tuple[int | None] | None = None

    def next_try(self, step: int) -> int:
        """How often save() was called for ``step`` in this attempt, this call included, since the restore that all agreed on last,
        and on top of what the ones before it could have counted."""
        self._tries[step] = max(self._tries.get(step, 0), self._first) + 1
        return self._tries[step]

    def joined(self, restores: int) -> None:
        """So many restores of this attempt have ended, as the daemon tells: a process that is new in it begins after them, as where
        all ranks were started again with the same CAIRN_ATTEMPT. One that is not goes on with the restore that it was in."""
        if self.restores == 0 and self._asked is None:
            self.restores = restores

    def next_restore(self, step: int | None) -> int:
        """The number of the restore that is due. Until it has ended, as where a daemon went in the middle of it, it is the same
        again for the same step; one for another step is the next, for all ranks know that number by the step it was begun for."""
        if self._asked is not None and self._asked != (step,):
            self.restores += 1
        self._asked = (step,)
        return self.restores + 1

    def restored(self, *, agreed: bool) -> None:
        """All ranks have the outcome of the restore that was due. ``agreed``: they hold the same state now."""
        self.restores += 1
        self._asked = None
        if agreed:
            self._first = (self.restores - 1) % self.ROUNDS * self.TRIES  # most attempts restore once, before they save


_counters: dict[tuple[object, ...], Counters] = {}


def counters(token: str, world_size: int, run: str, rank: int, socket: str) -> Counters:
    """One for each attempt, of which the world's size is a part, and for each daemon: two of them need not share anything."""
    return _counters.setdefault((token, world_size, run, rank, os.path.realpath(socket)), Counters())


def token(rank: int, world_size: int) -> str:
    """This launch's token; all ranks must call it once, for it may be collective.

    Raises:
        NoAttempt: a larger world without a process group, a store, Slurm or CAIRN_ATTEMPT.
    """
    named = os.environ.get("CAIRN_ATTEMPT")
    if named:
        return named
    key = (rank, world_size)
    if key not in _drawn:
        _drawn[key] = _draw(rank, world_size)
    return _drawn[key]


def _draw(rank: int, world_size: int) -> str:
    if world_size == 1:
        return secrets.token_hex(16)
    torch = sys.modules.get("torch")
    distributed: Any = getattr(torch, "distributed", None) if torch else None
    available = distributed is not None and distributed.is_available()
    if available and distributed.is_initialized() and distributed.get_world_size() == world_size:
        box = [secrets.token_hex(16) if distributed.get_rank() == 0 else None]
        distributed.broadcast_object_list(box, src=0)
        return str(box[0])
    jax: Any = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized() and jax.process_count() == world_size:
        return _between_jax_processes()
    if available:
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if host and port:
            return _over_store(distributed, host, int(port), rank, world_size)
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        step, restarts = os.environ.get("SLURM_STEP_ID", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
        return f"slurm-{job}-{step}-{restarts}"
    raise NoAttempt(
        f"the {world_size} ranks cannot agree which launch this is: initialize torch.distributed or jax.distributed first, set "
        "MASTER_ADDR and MASTER_PORT, or set CAIRN_ATTEMPT to a text that is equal on all ranks and new for every launch"
    )


def _between_jax_processes() -> str:
    """Process 0's random bits, as all of them compute them."""
    import numpy
    from jax.experimental import multihost_utils

    drawn = numpy.frombuffer(secrets.token_bytes(16), dtype=numpy.uint8)
    return bytes(numpy.asarray(multihost_utils.broadcast_one_to_all(drawn))).hex()


def release_store() -> None:
    """Let go of the store over which the token was agreed on, once a process group keeps it alive or nobody needs it.

    Not earlier: the other ranks go on to init_process_group() at once, and one that had connected to a store which then
    ends would fail there. A group that is destroyed and made anew finds a new store, as without Cairn.
    """
    if _stores:
        distributed: Any = getattr(sys.modules.get("torch"), "distributed", None)
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            _stores.clear()


def _over_store(distributed: Any, host: str, port: int, rank: int, world_size: int) -> str:
    """Rank 0 answers every other rank's fresh nonce, until each has confirmed this very token.

    An elastic agent's store outlives a launch, so a key alone could hold the last launch's token; nonces cannot.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = rank == 0 and not agent
    # init_process_group() wants this very port: a store for several tenants is the same one for it.
    store = distributed.TCPStore(
        host, port, is_master=serves, timeout=timedelta(seconds=STORE_SECONDS), wait_for_workers=False, multi_tenant=serves
    )
    if serves:
        _stores.append(store)
    deadline = time.monotonic() + STORE_SECONDS
    if rank != 0:
        nonce = secrets.token_hex(16)
        store.set(f"cairn/hello/{rank}", nonce)
        answer = str(store.get(f"cairn/token/{nonce}").decode())
        store.set(f"cairn/confirmed/{nonce}", answer)
        return answer
    drawn = secrets.token_hex(16)
    missing = set(range(1, world_size))
    while missing:
        for other in sorted(missing):
            if not store.check([f"cairn/hello/{other}"]):
                continue
            nonce = store.get(f"cairn/hello/{other}").decode()
            store.set(f"cairn/token/{nonce}", drawn)
            confirmed = f"cairn/confirmed/{nonce}"
            if store.check([confirmed]) and store.get(confirmed).decode() == drawn:
                missing.discard(other)
        if missing and time.monotonic() > deadline:
            raise NoAttempt(f"ranks {sorted(missing)[:8]} did not fetch the attempt's token within {STORE_SECONDS:.0f} s")
        time.sleep(0.01)
    return drawn
