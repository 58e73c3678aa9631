"""The attempt's token: equal on all ranks of one launch of the job, never equal between two launches.

In this order: CAIRN_ATTEMPT; 128 random bits of rank 0, sent over the initialized process group or the TCPStore at
MASTER_ADDR and MASTER_PORT; Slurm's job, step and restart count. A world of one draws its own. torchelastic's variables
alone are not used: its run id defaults to `none`, and nodes disagree on restart counts.
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
_drawn: dict[tuple[int, int], str] = {}


class Counters:
    """What this process counted in one attempt: tries of each step, and restores. They outlive a Checkpointer."""

    def __init__(self) -> None:
        self.tries: dict[int, int] = {}
        self.restores = 0

    def next_try(self, step: int) -> int:
        """How often save() was called for ``step`` in this attempt, this call included."""
        self.tries[step] = self.tries.get(step, 0) + 1
        return self.tries[step]

    def next_restore(self) -> int:
        """The number of the restore that is due; the same again until ``restored``, as where a daemon went in the middle of it."""
        return self.restores + 1

    def restored(self) -> None:
        """All ranks have the outcome of the restore that was due."""
        self.restores += 1


_counters: dict[tuple[str, str, int], Counters] = {}


def counters(token: str, run: str, rank: int) -> Counters:
    return _counters.setdefault((token, run, rank), Counters())


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
    if distributed is not None and distributed.is_available():
        if distributed.is_initialized() and distributed.get_world_size() == world_size:
            box = [secrets.token_hex(16) if distributed.get_rank() == 0 else None]
            distributed.broadcast_object_list(box, src=0)
            return str(box[0])
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if host and port:
            return _over_store(distributed, host, int(port), rank, world_size)
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        step, restarts = os.environ.get("SLURM_STEP_ID", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
        return f"slurm-{job}-{step}-{restarts}"
    raise NoAttempt(
        f"the {world_size} ranks cannot agree which launch this is: initialize torch.distributed first, set MASTER_ADDR and "
        "MASTER_PORT, or set CAIRN_ATTEMPT to a text that is equal on all ranks and new for every launch"
    )


def _over_store(distributed: Any, host: str, port: int, rank: int, world_size: int) -> str:
    """Rank 0 answers every other rank's fresh nonce, until each has confirmed this very token.

    An elastic agent's store outlives a launch, so a key alone could hold the last launch's token; nonces cannot.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = distributed.TCPStore(
        host, port, is_master=rank == 0 and not agent, timeout=timedelta(seconds=STORE_SECONDS), wait_for_workers=False
    )
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
