"""What is saved, and what the trainer computes meanwhile. Both are the same for all subjects."""

from __future__ import annotations

import argparse
import math
import pickle
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

MIB = 1 << 20
UNIT_SECONDS = 0.005
"""How long one unit of a step's work takes on an idle machine: how finely lost time is seen."""
SMALL, LARGE = 123, 10
"""Parameters. Each has a weight in bfloat16 and two moments in float32, so there are 369 small tensors and 30 large ones."""
LEAST, MOST = 512, 1 << 20
"""Elements of the small parameters, spread evenly on a logarithmic scale: tensors of 1 KiB to 4 MiB."""
COLUMNS = 64
MOMENTS = ("exp_avg", "exp_avg_sq")
BYTES = 10
"""Of one element's weight and moments."""


@dataclass
class State:
    """One rank's training state: tensors by name, and plain and pickled values beside them."""

    model: dict[str, torch.Tensor]
    optim: dict[str, torch.Tensor]
    extra: dict[str, Any]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {**{f"model.{name}": value for name, value in self.model.items()},
                **{f"optim.{name}": value for name, value in self.optim.items()}}  # fmt: skip

    @property
    def tree(self) -> dict[str, Any]:
        return {"model": self.model, "optim": self.optim, "extra": self.extra}

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def sums(self) -> list[int]:
        """Of the bits of each tensor, to tell whether a restore gave back what was saved."""
        return [int(_local(tensor).view(torch.int16).sum(dtype=torch.int64)) for tensor in self.tensors.values()]

    def forget(self) -> None:
        for tensor in self.tensors.values():
            _local(tensor).zero_()


def _local(tensor: Any) -> torch.Tensor:
    local: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return local


def elements(size: int) -> list[int]:
    """Of each parameter of a state of ``size`` bytes: multiples of 512, so that ranks can share them by rows."""
    top = MOST
    while True:
        small = [_whole(math.exp(math.log(LEAST) + index / (SMALL - 1) * math.log(top / LEAST))) for index in range(SMALL)]
        if sum(small) * BYTES <= size / 4 or top <= LEAST:
            break
        top //= 2
    rest = max(0, size // BYTES - sum(small))
    return small + [_whole(rest / LARGE)] * LARGE


def _whole(count: float) -> int:
    return max(LEAST, round(count / LEAST) * LEAST)


def training_state(size: int, *, part: int = 1, wrap: Callable[[torch.Tensor], Any] = lambda tensor: tensor) -> State:
    """About ``size`` bytes in 399 tensors; ``part``: a rank's share is one of so many, by rows, and ``wrap`` makes it a DTensor."""
    model, optim = {}, {}
    for index, count in enumerate(elements(size)):
        rows = count // COLUMNS // part
        model[f"layers.{index}.weight"] = wrap(_filled(rows, torch.bfloat16))
        for moment in MOMENTS:
            optim[f"layers.{index}.weight.{moment}"] = wrap(_filled(rows, torch.float32))
    extra = {"epoch": 3, "loss": [0.5, 0.25], "rng": pickle.dumps(random.Random(17).getstate()),
             "arguments": argparse.Namespace(lr=3e-4, betas=(0.9, 0.95), name="bench")}  # fmt: skip
    return State(model, optim, extra)


def tiny_tensors(count: int, *, each: int = 1) -> State:
    """``count`` tensors of ``each`` KiB."""
    return State({f"experts.{index}.scale": _filled(4 * each, torch.float32) for index in range(count)}, {}, {"epoch": 3})


_block = torch.Tensor()


def _filled(rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Random bits that are finite numbers, from one block again and again: making gigabytes of them would take minutes."""
    global _block
    if not _block.numel():
        _block = torch.randn(2 * MIB, generator=torch.Generator().manual_seed(17))
    tensor = torch.empty(rows, COLUMNS, dtype=dtype)
    flat = tensor.flatten()
    for begin in range(0, flat.numel(), _block.numel()):
        part = flat[begin : begin + _block.numel()]
        part.copy_(_block[: part.numel()])
    return tensor


class Step:
    """A training step's compute, in units of UNIT_SECONDS, until anything makes it slower."""

    def __init__(self, name: str) -> None:
        self.name = name
        some = {"launch": _launches, "matmul": _matmuls, "python": _python}[name]()
        some(3)
        count = 1
        while (taken := _seconds(some, count)) < 0.05:
            count *= 2
        self._some, self._count = some, max(1, round(count * UNIT_SECONDS / taken))

    def unit(self) -> None:
        self._some(self._count)

    def units(self, count: int) -> None:
        for _ in range(count):
            self._some(self._count)

    def alone(self, seconds: float) -> float:
        """Seconds that one unit takes, with nothing beside it."""
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self.unit()
            count += 1
        return (time.perf_counter() - began) / count


def _seconds(some: Callable[[int], object], count: int) -> float:
    began = time.perf_counter()
    some(count)
    return time.perf_counter() - began


def _launches() -> Callable[[int], object]:
    """Bound by the interpreter: many operations of a microsecond each, as a step that launches small kernels has."""
    matrix = torch.randn(32, 32) / 8

    def some(count: int) -> None:
        value = matrix
        for _ in range(count):
            value = torch.tanh(value @ matrix)

    return some


def _matmuls() -> Callable[[int], object]:
    """Bound by arithmetic on all cores."""
    left, right, product = torch.randn(512, 512), torch.randn(512, 512), torch.empty(512, 512)

    def some(count: int) -> None:
        for _ in range(count):
            torch.mm(left, right, out=product)

    return some


def _python() -> Callable[[int], object]:
    """Nothing but Python: the interpreter's lock is given away only where another thread asks for it."""

    def some(count: int) -> int:
        value = 1
        for index in range(count * 100):
            value = (value * 31 + index) & 0xFFFF
        return value

    return some
