"""Reading a run's committed steps without being a rank of it: beside a live job, as an evaluation does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from . import errors, limits, options
from .choice import Choice, Names
from .foreign import Objects
from .history import ask, of_run, runs_of
from .pickles import AllowPickle
from .plan import some
from .restore import Restored, Wish, load_step
from .session import Session, Who
from .wire import CHECKPOINT


def steps_of(run: str, socket: str) -> list[dict[str, Any]]:
    """The steps of a run of this user, as Runs of dev.cairn.Operations lists them; none where there is no such run."""
    return [step for each in runs_of(run, socket) for step in each["steps"]]


def ranks_of(run: str, socket: str) -> int:
    """Ranks of a run of this user that are connected to this daemon; it knows none of other nodes."""
    return sum(int(each["sessions"]) for each in of_run(run, ask(socket, "Status", {})["sessions"]["runs"]))


def committed(session: Session, step: int | None) -> tuple[int, int]:
    """The step, or the newest that is not superseded, and its sequence.

    Raises:
        NoSuchStep: it is not committed; ``parameters`` say which are."""
    run = session.who.run
    whole = [each for each in steps_of(run, session.path) if each["level"] == "committed"]
    fitting = [each for each in whole if each["step"] == step or (step is None and not each["superseded"])]
    if not fitting:
        held = some([str(each["step"]) for each in whole]) or "none"
        raise errors.NoSuchStep(CHECKPOINT + "NoSuchStep", {"run": run, "step": step, "committed": held})
    newest = max(fitting, key=lambda each: int(each["sequence"]))
    return int(newest["step"]), int(newest["sequence"])


def load(
    run: str,
    state: Any,
    step: int | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    strict: bool = True,
    only: Sequence[str] | None = None,
    names: Names | None = None,
    cast: bool = False,
    allow_pickle: AllowPickle = False,
    objects: Objects = "own",
    socket: str | os.PathLike[str] | None = None,
    timeout: float = limits.RESTORE_SECONDS,
) -> Restored:
    """Fill ``state`` from a committed step of a run of this user, in place, as Checkpointer.restore does; but no launch begins or
    ends, so the job may be live, here or on another node, and nothing is agreed: each process that calls it loads for itself.

    Args:
        step: default: the newest whole one; where several processes are to load the same, one of them asks (newest_step) and tells.
        rank, world_size: whose own parts are loaded, where the step was saved by ``world_size`` ranks; else it is resharded.
        strict, only, names, cast, allow_pickle, objects: see Checkpointer.restore.
        timeout: seconds for one answer of the daemon.
    Returns:
        what was restored.
    Raises:
        NoSuchStep: the run has none, or not this one. ValueError: the run's name, ``rank``, ``names`` or ``only`` is not what it
        should be. Unavailable, Mismatch, PickleRefused, UnsupportedTensor, Corrupt, TierDown: tensors may hold parts of the step
        then."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in a world of {world_size}")
    choice = Choice(names, only)
    path = str(socket) if socket is not None else limits.default_socket()
    session = Session(path, Who(options.check_run(run), rank, world_size, None, None, ""), reads_only=True)
    session.open()
    try:
        wish = Wish(state, step, strict, allow_pickle, objects, timeout, [], choice, cast)
        done, failure = load_step(session, wish, *committed(session, step))
        if done is None:
            raise failure or errors.ProtocolError("nothing was loaded, and nothing failed")
    finally:
        session.close()
    plan, restored = done
    plan.apply()
    return restored
