"""torch.distributed.checkpoint on Cairn. A script that has ``import torch.distributed.checkpoint as dcp`` changes that line:

    import cairn.torch.dcp as dcp

    dcp.async_save(state, checkpoint_id=f"checkpoints/llama/step-{step}")    # run "llama", step
    dcp.load(state, checkpoint_id="checkpoints/llama/step-1200")

or keeps it, and gives ``storage_writer=CairnWriter("llama")`` and ``storage_reader=CairnReader("llama")`` to the stock calls.
All that this module does not define is torch.distributed.checkpoint's.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch.distributed.checkpoint as stock

from .names import run_of
from .reader import CairnReader
from .writer import CairnWriter

__all__ = ["AsyncSaveResponse", "CairnReader", "CairnWriter", "async_save", "guard", "load", "save"]

_writers: dict[str, CairnWriter] = {}


@dataclass
class AsyncSaveResponse(stock.state_dict_saver.AsyncSaveResponse):  # type: ignore[misc]
    """DCP's own, and the Future that ``async_save`` gives where nothing is staged behind it: ``upload_completion``."""

    def result(self, timeout: float | None = None) -> Any:
        return self.upload_completion.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        found: BaseException | None = self.upload_completion.exception(timeout)
        return found

    def done(self) -> bool:
        return bool(self.upload_completion.done())

    def add_done_callback(self, function: Any) -> None:
        self.upload_completion.add_done_callback(function)


def writer(checkpoint_id: str | PathLike[str]) -> CairnWriter:
    """This process's writer for the run that ``checkpoint_id`` belongs to."""
    run = run_of(checkpoint_id)
    if run not in _writers or _writers[run].checkpointer._closed:
        _writers[run] = CairnWriter(run)
    return _writers[run]


def guard(optimizer: Any, checkpoint_id: str | PathLike[str]) -> None:
    """Let async_save copy what ``optimizer`` owns after it has returned, and fence before each of its steps."""
    writer(checkpoint_id).guard(optimizer)


def save(
    state_dict: dict[str, Any], *, checkpoint_id: str | PathLike[str] | None = None, storage_writer: Any = None, **options: Any
) -> Any:
    """torch.distributed.checkpoint.save; without a storage_writer, with Cairn's. Returns when the step is committed."""
    if storage_writer is None and checkpoint_id is not None:
        storage_writer = writer(checkpoint_id)
    return stock.save(state_dict, checkpoint_id=checkpoint_id, storage_writer=storage_writer, **options)


def async_save(
    state_dict: dict[str, Any], *, checkpoint_id: str | PathLike[str] | None = None, storage_writer: Any = None, **options: Any
) -> AsyncSaveResponse | Future[Any]:
    """torch.distributed.checkpoint.async_save; without a storage_writer, with Cairn's. CairnWriter.stage says when it returns."""
    if storage_writer is None and checkpoint_id is not None:
        storage_writer = writer(checkpoint_id)
    answer: Any = stock.async_save(state_dict, checkpoint_id=checkpoint_id, storage_writer=storage_writer, **options)
    if isinstance(answer, stock.state_dict_saver.AsyncSaveResponse):
        return AsyncSaveResponse(answer.staging_completion, answer.upload_completion)
    future: Future[Any] = answer
    return future


def load(
    state_dict: dict[str, Any], *, checkpoint_id: str | PathLike[str] | None = None, storage_reader: Any = None, **options: Any
) -> None:
    """torch.distributed.checkpoint.load; without a storage_reader, with Cairn's."""
    if storage_reader is None and checkpoint_id is not None:
        storage_reader = CairnReader(run_of(checkpoint_id))
    stock.load(state_dict, checkpoint_id=checkpoint_id, storage_reader=storage_reader, **options)


def __getattr__(name: str) -> Any:
    return getattr(stock, name)
