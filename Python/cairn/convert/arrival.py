"""The way into a run: a state as the first step of a new run, saved by a Checkpointer of a world of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

from .. import errors, limits, options, tree
from ..checkpointer import Checkpointer
from ..reading import ranks_of, steps_of
from .source import Report


def arrive(
    run: str, step: int, read: Callable[[], Any], socket: str | os.PathLike[str] | None, timeout: float
) -> Report:
    """Save what ``read`` gives; the daemon takes the bytes of tensors from where they are mapped, so nothing is copied here."""
    path = str(socket) if socket is not None else limits.default_socket()
    if steps_of(options.check_run(run), path):
        raise errors.CannotConvert(f"run '{run}' has steps already: import into a new one")
    if ranks := ranks_of(run, path):
        raise errors.CannotConvert(f"run '{run}' has {ranks} ranks connected, whose launch this would end: import into a new one")
    state = read()
    found = {id(tensor): tensor for tensor in tree.flatten(state).tensors}
    if not found:
        raise errors.CannotConvert("there is no tensor in it: nothing to import")
    token = secrets.token_hex(16)
    with Checkpointer(run, rank=0, world_size=1, attempt=token, socket=path, shared=True, on_unavailable="raise") as checkpointer:
        checkpointer.save(step, state, lazy=True).wait("committed", timeout=timeout)
    return Report(step, len(found), sum(int(tensor.nbytes) for tensor in found.values()))
