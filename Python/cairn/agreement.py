"""A few numbers that all ranks of the job agree on where they ask: the largest of each, by one all_reduce over a gloo group of its
own, so that training may use the other one from more threads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from . import errors


class Agreement:
    """Of one kind of question; all ranks ask it at the same steps.

    Args:
        world_size: the ranks that ask.
        error: raised where they cannot agree.
        what: they agree on, and before which call there must be a process group, for the error's text."""

    def __init__(self, world_size: int, error: type[errors.CairnError], what: str, call: str, otherwise: str) -> None:
        self._world_size = world_size
        self._error, self._what, self._call, self._otherwise = error, what, call, otherwise
        self._group: Any = None
        self._world: Any = None

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each over all ranks, which give equally many. In a world of one, the same."""
        if self._world_size == 1:
            return list(values)
        torch: Any = sys.modules.get("torch")
        distributed: Any = getattr(torch, "distributed", None)
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            raise self._error(
                f"the {self._world_size} ranks cannot agree {self._what}: call torch.distributed.init_process_group() "
                f"before {self._call}. {self._otherwise}"
            )
        if distributed.get_world_size() != self._world_size:
            raise self._error(
                f"torch's process group has {distributed.get_world_size()} ranks and the Checkpointer {self._world_size}: give it "
                f"the group's rank= and world_size=, for all ranks of the job must agree {self._what}"
            )
        if self._world is not distributed.group.WORLD:  # the first call, or the group was made anew
            self._world = distributed.group.WORLD
            self._group = distributed.new_group(backend="gloo")
        box = torch.tensor(list(values), dtype=torch.float64)
        distributed.all_reduce(box, op=distributed.ReduceOp.MAX, group=self._group)
        return [float(value) for value in box.tolist()]
