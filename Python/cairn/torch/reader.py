"""DCP's StorageReader on Cairn: the planner says which boxes of which tensors it needs, and the daemon reads just those, from the
nearest tier."""

from __future__ import annotations

import io
import pickle
import sys
from enum import Enum
from os import PathLike
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader

from .. import dtypes, errors, limits, pickles, tensors
from ..checkpointer import Checkpointer
from ..loader import Loader
from ..plan import NEAR, Target
from ..session import Session
from .names import checkpointer_of, is_step, step_of
from .stored import METADATA_OBJECT, rank_of

_METADATA_MODULES = frozenset({"torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"})


class _Unpickler(pickle.Unpickler):
    """Lets through what DCP's own metadata is made of, and what is harmless anyway."""

    def __init__(self, data: bytes, allow: pickles.AllowPickle) -> None:
        super().__init__(io.BytesIO(data))
        self._allow = allow

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if self._is_known(module, name) or self._allow is True or (callable(self._allow) and self._allow(module, name)):
            return super().find_class(module, name)
        raise errors.PickleRefused(
            f"DCP's metadata names {module}.{name}, which may run code: give allow_pickle to CairnReader if it is to be trusted"
        )

    @staticmethod
    def _is_known(module: str, name: str) -> bool:
        if module in _METADATA_MODULES:
            found = getattr(sys.modules[module], name, None)
            return isinstance(found, type) and found.__module__ == module
        if module == "torch":
            return name == "Size" or isinstance(getattr(torch, name, None), torch.dtype | torch.layout | torch.memory_format)
        return (module, name) in pickles.HARMLESS or (module, name) == ("torch.serialization", "_get_layout")


def _member(kind: Any, name: str) -> Any:
    """How an Enum's member is pickled."""
    if not (isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__):
        raise errors.PickleRefused(f"DCP's metadata asks for '{name}' of {kind!r}, which is no member of an Enum")
    return kind[name]


def unpickle(data: bytes, allow: pickles.AllowPickle) -> Metadata:
    """DCP's metadata; what stands behind it in ``data`` is not read.

    Raises:
        PickleRefused: it names what is neither its own nor harmless nor allowed. CairnError: it does not unpickle."""
    try:
        metadata: Metadata = _Unpickler(data, allow).load()
    except errors.PickleRefused:
        raise
    except Exception as failure:  # a pickle can raise anything
        raise errors.CairnError(f"'.metadata' does not unpickle: {failure}") from failure
    return metadata


class CairnReader(StorageReader):  # type: ignore[misc]
    """Loads a step of a Cairn run that DCP saved, into any sharding and any number of ranks.

    Args:
        run: the run's name, or a Checkpointer of it.
        step: default: the number at the end of ``checkpoint_id``; without either, the newest whole step.
        allow_pickle: for a planner that puts classes of its own into DCP's metadata; see pickles.AllowPickle.
        timeout: seconds to agree with the other ranks: all ranks of the launch must load.
    """

    def __init__(
        self,
        run: str | Checkpointer,
        *,
        step: int | None = None,
        allow_pickle: pickles.AllowPickle = False,
        timeout: float = limits.RESTORE_SECONDS,
    ) -> None:
        super().__init__()
        self.checkpointer = checkpointer_of(run)
        self.step = step
        self._allow = allow_pickle
        self._timeout = timeout
        self._metadata: Metadata | None = None
        self._chosen = (0, 0)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        return is_step(checkpoint_id)

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        if checkpoint_id is not None:
            self.step = step_of(checkpoint_id)
        self._metadata = None

    def read_metadata(self) -> Metadata:  # with further arguments, DCP would call it a second time where it raises
        """Agree with the other ranks on the step, and read its `.metadata`.

        Raises:
            NoSuchStep: it is not there. Mismatch: it was not saved by DCP. PickleRefused, Unavailable."""
        session = self.checkpointer._link.wait_for_session(limits.CALL_SECONDS, opening=limits.OPEN_SECONDS)
        self._chosen = self._choose(session)
        step, sequence = self._chosen
        about = session.load_call(
            "Describe", {"step": step, "sequence": sequence, "names": [METADATA_OBJECT]}, timeout=self._timeout
        )
        found = [item for item in about["objects"] if item["name"] == METADATA_OBJECT]
        if not found:
            raise errors.Mismatch(
                f"step {step} was not saved by torch.distributed.checkpoint: restore it with Checkpointer.restore()"
            )
        try:
            data = Loader(session, step, sequence).read(METADATA_OBJECT, int(found[0]["rank"]), int(found[0]["bytes"]))
        finally:
            session.give_back_leases()
        metadata = unpickle(data, self._allow)
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._metadata = metadata

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> torch.futures.Future[None]:
        session = self.checkpointer._link.wait_for_session(limits.CALL_SECONDS)
        try:
            self._read(Loader(session, *self._chosen), plan, planner)
        except BaseException as failure:
            if session.loads.dead:
                self.checkpointer._link.lose(session, str(failure) or type(failure).__name__)
            raise
        finally:
            session.give_back_leases()
        future: torch.futures.Future[None] = torch.futures.Future()
        future.set_result(None)
        return future

    def _read(self, loader: Loader, plan: LoadPlan, planner: LoadPlanner) -> None:
        targets: list[Target] = []
        tensors_to_commit: list[tuple[Any, torch.Tensor, torch.Tensor | None]] = []
        for item in plan.items:
            info = self._info(item.storage_index)
            rank = rank_of(info.relative_path)
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(loader.read(item.storage_index.fqn, rank, info.length)))
                continue
            target = planner.resolve_tensor(item).detach()
            if tuple(target.shape) != tuple(item.lengths):
                raise errors.Mismatch(f"'{item.storage_index.fqn}': {list(target.shape)} for a box of {list(item.lengths)}")
            about: Any = self._metadata.state_dict_metadata[item.storage_index.fqn] if self._metadata is not None else None
            dtype = about.properties.dtype
            kind = dtypes.of_torch(dtype)
            assert kind is not None  # it was saved
            direct = target.device.type == "cpu" and target.dtype == dtype and tensors.is_dense(target)
            buffer = target if direct else torch.empty(tuple(item.lengths), dtype=dtype)
            offsets = tuple(at + skip for at, skip in zip(item.storage_index.offset or (), item.storage_offsets, strict=True))
            box = None if tuple(item.lengths) == tuple(about.size) else offsets
            tensors_to_commit.append((item, target, None if direct else buffer))
            if buffer.nbytes:
                near = NEAR if rank == self.checkpointer.rank else rank
                shape = tuple(item.lengths)
                targets.append(
                    Target(item.storage_index.fqn, None, kind, box, shape, int(buffer.data_ptr()), buffer, int(buffer.nbytes), near)
                )
        loader.load(targets)
        for item, target, read in tensors_to_commit:
            if read is not None:
                target.copy_(read)
            planner.commit_tensor(item, target)

    def _info(self, index: MetadataIndex) -> _StorageInfo:
        storage: Any = self._metadata.storage_data if self._metadata is not None else None
        info: _StorageInfo = storage[index]
        return info

    def _choose(self, session: Session) -> tuple[int, int]:
        """The step and sequence that all ranks of this launch load."""
        counters = self.checkpointer._counters
        counters.joined(session.limits.get("restores", 0))

        def call(method: str, **parameters: Any) -> dict[str, Any]:
            return session.load_call(method, parameters, timeout=self._timeout + limits.CALL_SECONDS)

        while True:
            turn = counters.next_restore(self.step)
            refusal: errors.NoSuchStep | None = None
            choice: dict[str, Any] = {}
            try:
                choice = call("Choose", restore=turn, step=self.step, timeoutMs=int(self._timeout * 1000))
            except errors.NoSuchStep as failure:
                refusal = failure
            # Settled where there is none too, and so by all: each is in the same turn then.
            again = bool(call("Settle", restore=turn, ok=True).get("again", False))
            counters.restored(agreed=not again)
            if again:
                continue
            if refusal is not None:
                raise refusal
            return int(choice["step"]), int(choice["sequence"])
