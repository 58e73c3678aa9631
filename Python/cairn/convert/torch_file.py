"""One file of torch.save(): the state as a rank gave it to save(), of torch's tensors, dicts, lists, tuples and plain values.

Objects that had state_dict() are what that gave. It must fit into memory: torch.save() takes all tensors at once.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from ..plan import Stored
from .source import Report, Source, size_of, unreadable
from .tensor_files import Choice


def export_file(source: Source, path: Path, choice: Choice) -> Report:
    made: list[tuple[torch.Tensor, Stored]] = []

    def make(stored: Stored) -> torch.Tensor:
        made.append((source.empty(stored), stored))
        return made[-1][0]

    state, left_out = source.state(make)
    total, done = sum(size_of(stored) for _, stored in made), 0
    for tensor, stored in made:
        source.told(done, total)
        source.fill(tensor, stored)
        done += size_of(stored)
    source.told(done, total)
    torch.save(state, path)
    return Report(source.step, len(made), total, left_out)


def read_file(path: Path, prefix: str, allow_pickle: bool) -> Any:
    """Its object, as a state to save. Tensors of today's form stay in the file until their bytes are read; those of torch's older
    form are read into memory."""
    try:
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=not allow_pickle)
    except Exception as failure:  # a pickle can raise anything
        raise unreadable(path, "torch.load()", failure) from failure
