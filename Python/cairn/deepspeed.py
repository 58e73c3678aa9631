"""DeepSpeed: a CheckpointEngine, in the place of its TorchCheckpointEngine or DataStates-LLM's.

    from cairn.deepspeed import CairnCheckpointEngine
    checkpoints = CairnCheckpointEngine(engine, "bert")
    engine.load_checkpoint(folder, tag=checkpoints.latest_tag(folder))
    engine.save_checkpoint(folder)

engine.save_checkpoint() returns when what may change before the next update is copied; the update waits for the rest. In the folder
only small files stand, with DeepSpeed's names, since it looks for them; each names the step that holds what it would hold. The step
is the number at the end of the tag, as in DeepSpeed's own global_step100. Every rank saves; equal parameters are written once.
"""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

from . import errors, name_files
from .checkpointer import Checkpointer
from .history import newest_step
from .pickles import AllowPickle
from .plan import Only

_STEP = re.compile(r"(?:.*[^0-9])?([0-9]{1,18})")


OWN = {
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
}
"""Classes of which DeepSpeed itself puts objects into a checkpoint."""


def own_objects(module: str, name: str) -> bool:
    """For ``allow_pickle``: whether DeepSpeed itself puts objects of this class into its checkpoints."""
    return (module, name) in OWN


class CairnCheckpointEngine(CheckpointEngine):  # type: ignore[misc,unused-ignore]
    """Puts itself into ``engine``, as deepspeed.initialize() has given it.

    Args:
        run: the run's name.
        allow_pickle: as of cairn.Checkpointer.restore, for what the client state holds.
        options: further ones of cairn.Checkpointer.
    Raises:
        ValueError: the model has experts or is a pipeline, whose files have other names on other ranks.
    """

    def __init__(self, engine: Any, run: str, *, allow_pickle: AllowPickle = own_objects, **options: Any) -> None:
        super().__init__()
        if engine.has_moe_layers or hasattr(engine, "num_stages"):
            raise ValueError("CairnCheckpointEngine saves neither experts nor pipelines")
        self._engine = engine
        self._allow_pickle = allow_pickle
        self._files: dict[str, Any] = {}
        known: dict[str, Any] = {"rank": engine.global_rank, "world_size": engine.world_size}
        if engine.mp_world_size == 1:
            known["replicated"] = self._is_replicated
        self._parameters: set[str] = set()
        self.checkpointer = Checkpointer(run, **known | options)
        if engine.optimizer is not None:
            self.checkpointer.guard(engine.optimizer)
        engine.checkpoint_engine = self
        engine.save_non_zero_checkpoint = True  # by each rank, so that each finds its own

    def latest_tag(self, folder: str | os.PathLike[str]) -> str | None:
        """The tag in ``folder`` of the newest whole step; None: there is none. What the file `latest` names may never become whole.

        Raises:
            Unavailable: there is no daemon."""
        step = newest_step(self.checkpointer.run, socket=self.checkpointer._link.path)
        names = sorted(Path(folder).glob("*/*.pt")) if step is not None else []
        return next((path.parent.name for path in names if name_files.read(path) == (self.checkpointer.run, step)), None)

    # What DeepSpeed calls.

    def create(self, info: Any) -> None:
        _step_of(info.tag)
        self._files = {}

    def save(self, state_dict: Any, path: str) -> None:
        self._files[os.path.basename(path)] = _without_enums(state_dict)

    def commit(self, info: Any) -> bool:
        files, self._files = self._files, {}
        step = _step_of(info.tag)
        for name in files:
            name_files.write(Path(info.save_dir, info.tag, name), self.checkpointer.run, step)
        self._parameters = {name for name, _ in self._engine.module.named_parameters(remove_duplicate=False)}
        self.checkpointer.save(step, files)
        return True

    def _is_replicated(self, name: str) -> bool:
        """Parameters are equal on all ranks of a data-parallel world; buffers, as BatchNorm's, are not."""
        file, module, parameter = name.partition("_model_states.pt.module.")
        return bool(module) and file.startswith("mp_rank_") and parameter in self._parameters

    def load(self, path: str, map_location: Any = None) -> Any:
        """The content of one of the files, in new tensors on the CPU. All ranks must call it, each for a file that it saved."""
        run, step = name_files.read(Path(path))
        if run != self.checkpointer.run:
            raise ValueError(f"'{path}' was not written by CairnCheckpointEngine in run '{self.checkpointer.run}'")
        name = os.path.basename(path)
        state = Only({name: None})
        try:
            self.checkpointer.restore(state, step, allow_pickle=self._allow_pickle)
        except errors.NoSuchStep:
            raise FileNotFoundError(f"'{path}': run '{run}' has no whole step {step}; latest_tag() names the newest") from None
        return state[name]

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return True

    def preserves_storage_sharing(self) -> bool:
        return False

    def cleanup(self) -> None:
        """Wait until what was saved has ended, and let go of the daemon.

        Raises:
            CheckpointFailed: a save failed. TimeoutError: one has not ended in time."""
        self.checkpointer.finish()


def _without_enums(node: Any) -> Any:
    """The same with numbers for members of enumerations that are numbers, as ZeRO's stage: their pickles would call getattr."""
    if type(node) is dict:
        return {key: _without_enums(value) for key, value in node.items()}
    if type(node) is list or type(node) is tuple:
        return type(node)(_without_enums(value) for value in node)
    return int(node) if isinstance(node, Enum) and isinstance(node, int) else node


def _step_of(tag: str) -> int:
    found = _STEP.fullmatch(tag)
    if found is None:
        raise ValueError(f"tag '{tag}' does not end in a step's number, as global_step100 does: Cairn orders checkpoints by it")
    return int(found[1])
