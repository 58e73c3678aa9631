"""From DCP's checkpoint_id to Cairn's run and step, and one Checkpointer for each run of this process."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import PurePath

import torch.distributed as dist

from ..checkpointer import Checkpointer

_STEP = re.compile(r"(?:.*\D)?(\d{1,18})")

_checkpointers: dict[str, Checkpointer] = {}


def is_step(checkpoint_id: str | PathLike[str]) -> bool:
    return _STEP.fullmatch(PurePath(checkpoint_id).name) is not None


def step_of(checkpoint_id: str | PathLike[str]) -> int:
    """The number at the end of ``checkpoint_id``: 1200 of "checkpoints/llama/step-1200".

    Raises:
        ValueError: it ends in none."""
    found = _STEP.fullmatch(PurePath(checkpoint_id).name)
    if found is None:
        raise ValueError(f"checkpoint_id '{checkpoint_id}' does not end in the step's number, as 'step-1200' does")
    return int(found[1])


def run_of(checkpoint_id: str | PathLike[str]) -> str:
    """CAIRN_RUN, else the name of the folder that ``checkpoint_id`` lies in.

    Raises:
        ValueError: it lies in none."""
    named = os.environ.get("CAIRN_RUN")
    parent = PurePath(checkpoint_id).parent.name
    if not named and not parent:
        raise ValueError(f"which run does checkpoint_id '{checkpoint_id}' belong to? Say 'RUN/step-1200', or set CAIRN_RUN")
    return named or parent


def checkpointer_of(run: str | Checkpointer) -> Checkpointer:
    """This process's Checkpointer of ``run``, made at the first call, by all ranks at the same time; see Checkpointer."""
    if isinstance(run, Checkpointer):
        return run
    found = _checkpointers.get(run)
    if found is None or found._closed:
        ready = dist.is_available() and dist.is_initialized()
        rank, size = (dist.get_rank(), dist.get_world_size()) if ready else (None, None)
        found = _checkpointers[run] = Checkpointer(run, rank=rank, world_size=size)
    return found
