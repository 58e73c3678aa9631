"""A folder of torch.distributed.checkpoint, written and read by its own FileSystemWriter and FileSystemReader.

    __0_N.distcp   tensors up to EXPORT_DCP_BYTES, or one that is larger
    .metadata      DCP's own

The plan is made of tensors without memory; each gets its own when its turn has come to be written.
"""

from __future__ import annotations

import io
import math
import queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import DEFAULT_SUFFIX
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.storage import WriteResult

from .. import errors, limits
from ..plan import Stored
from ..torch import reader
from .source import Report, Source, portions, size_of, unreadable
from .tensor_files import Choice


class _Planner(DefaultSavePlanner):  # type: ignore[misc]
    """Reads a tensor when it is to be written. ``made``: what stands for each in the state, by id."""

    def __init__(self, source: Source, made: dict[int, tuple[torch.Tensor, Stored]]) -> None:
        super().__init__()
        self._source = source
        self._made = made
        self._done = 0
        self._total = sum(size_of(stored) for _, stored in made.values())

    def lookup_object(self, index: MetadataIndex) -> Any:
        found = super().lookup_object(index)
        if id(found) not in self._made:
            return found
        _, stored = self._made[id(found)]
        tensor = self._source.empty(stored)
        self._source.fill(tensor, stored)
        self._done += size_of(stored)
        self._source.told(min(self._done, self._total), self._total)  # tied ones are written, and counted, under each name
        return tensor


class _Writer(dcp.FileSystemWriter):  # type: ignore[misc]
    """Into files of a bounded size, one after the other."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        def size(item: WriteItem) -> int:
            about = item.tensor_data
            return 0 if about is None else math.prod(about.size) * int(about.properties.dtype.itemsize)

        files: queue.Queue[tuple[Any, str, list[WriteItem]]] = queue.Queue()
        for number, items in enumerate(portions(plan.items, size, limits.EXPORT_DCP_BYTES)):
            name = f"{plan.storage_data.prefix}{number}{DEFAULT_SUFFIX}"
            files.put((self.fs.concat_path(self.path, name), name, items))
        return self._write_data(planner, files)


def export_folder(source: Source, path: Path, choice: Choice) -> Report:
    state, left_out, made = source.outline()
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise errors.CannotConvert(f"DCP takes a dict with texts as keys, and step {source.step} is another state: export to torch")
    planner = _Planner(source, made)
    try:
        dcp.save(state, storage_writer=_Writer(path), planner=planner, no_dist=True)
    except CheckpointException as failure:
        raise _cause(failure) from None
    return Report(source.step, len(made), sum(size_of(stored) for _, stored in made.values()), left_out)


def _cause(failure: CheckpointException) -> BaseException:
    """What DCP, which gathers what each rank raised, wrapped here."""
    cause: BaseException = failure.failures[min(failure.failures)][0]
    return cause


class _Reader(dcp.FileSystemReader):  # type: ignore[misc]
    """With metadata that was unpickled here: its own would run what that names."""

    def __init__(self, path: Path, metadata: Metadata) -> None:
        super().__init__(path)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata.storage_meta is None:
            self._metadata.storage_meta = StorageMeta()
        self._metadata.storage_meta.load_id = self.load_id
        return self._metadata


class _LoadPlanner(_EmptyStateDictLoadPlanner):  # type: ignore[misc]
    """Rebuilds the state, and runs no pickles in it unless that is allowed."""

    def __init__(self, allow_pickle: bool) -> None:
        super().__init__()
        self._allow_pickle = allow_pickle

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        loaded = torch.load(value, map_location="cpu", weights_only=not self._allow_pickle)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)


def read_folder(path: Path, prefix: str, allow_pickle: bool) -> Any:
    """Its state, nested as it was given to dcp.save(); it must fit into memory."""
    file = path / ".metadata"
    if not file.is_file():
        raise errors.CannotConvert(f"'{path}' has no '.metadata': name a folder that dcp.save() wrote")
    metadata = reader.unpickle(file.read_bytes(), allow_pickle)
    state: dict[str, Any] = {}
    try:
        _load_state_dict(state, _Reader(path, metadata), planner=_LoadPlanner(allow_pickle), no_dist=True)
    except (Exception, CheckpointException) as failure:  # what its pickles raise
        cause = _cause(failure) if isinstance(failure, CheckpointException) else failure
        raise unreadable(path, "dcp.load()", cause) from failure
    return state
