"""Hugging Face's Trainer: a callback that saves and resumes its trainings through Cairn, without checkpoint folders.

    from cairn.transformers import CairnCallback
    CairnCallback(trainer, "bert")
    trainer.train(resume_from_checkpoint=True)

It takes the place of the Trainer's own saving and loading, at the very steps and moments that the Trainer's arguments say, so that
a training that was resumed goes on bit by bit as if nothing had been. `save_total_limit` is left to the daemon's retention; with
`load_best_model_at_end` the best step is pinned. Each rank saves: parameters and optimizer state of DDP are written once, by the
ranks together. FSDP1 and DeepSpeed, whose parameters are not where the model says, are refused.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import tempfile
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerCallback

from . import errors
from .checkpointer import Checkpointer
from .pickles import AllowPickle
from .plan import Only
from .rng import rng_state, set_rng_state

log = logging.getLogger("cairn")


class CairnCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Adds itself to ``trainer``.

    Args:
        run: the run's name.
        allow_pickle: as of cairn.Checkpointer.restore, for what a scheduler or optimizer of one's own keeps.
        options: further ones of cairn.Checkpointer.
    Raises:
        ValueError: the trainer shards by FSDP1 or DeepSpeed.

    ``trainer.train(resume_from_checkpoint=True)`` then restores the run's newest whole step, or begins anew where there is none;
    with a path it loads one of the Trainer's own checkpoints, as before.
    """

    def __init__(self, trainer: Any, run: str, *, allow_pickle: AllowPickle = False, **options: Any) -> None:
        plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
        if trainer.is_deepspeed_enabled or (plugin is not None and getattr(plugin, "fsdp_version", 1) != 2):
            raise ValueError("CairnCallback cannot save DeepSpeed's or FSDP1's parameters: use DDP or FSDP2")
        self._trainer = trainer
        self._allow_pickle = allow_pickle
        self._rng: Any = None
        self._resumed: str | None = None
        """The folder that stands for the step which this training resumes from."""
        self._pinned: int | None = None
        world_size, rank = trainer.args.world_size, trainer.args.process_index
        known: dict[str, Any] = {"rank": rank, "world_size": world_size, "replicated": self._is_replicated}
        self._parameters: set[str] = set()
        self.checkpointer = Checkpointer(run, **known | options)
        self._train = trainer.train
        trainer.train = self._resume_and_train
        trainer._save_checkpoint = self._save
        for name, load in {
            "_load_from_checkpoint": self._nothing,
            "_load_optimizer_and_scheduler": self._load,
            "_load_scaler": self._nothing,
            "_load_rng_state": self._load_rng,
        }.items():
            setattr(trainer, name, self._of_ours(load, getattr(trainer, name)))
        trainer._load_best_model = self._load_best
        trainer.add_callback(self)
        if trainer.args.save_total_limit is not None:
            log.info("cairn: save_total_limit is left to the daemon's retention")

    # The Trainer's events.

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.checkpointer.guard(self._trainer.optimizer)
        self._name_best(state)

    def _is_replicated(self, name: str) -> bool:
        """Of DDP, parameters and what is made of them; buffers, as BatchNorm's, differ until rank 0's are sent before a forward."""
        return name in self._parameters or name.startswith("optimizer.")

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """What was saved is there when train() returns, as with the Trainer's own checkpoints."""
        try:
            self.checkpointer.wait_until_finished()
            self.checkpointer.check_for_errors()
        except (errors.CheckpointFailed, TimeoutError) as failure:
            log.warning("cairn: at the end of the training: %s", failure)

    # In the places of the Trainer's methods.

    def _save(self, model: Any, trial: Any) -> None:
        trainer, state = self._trainer, self._trainer.state
        if trainer.hp_search_backend is None and trial is None:
            trainer.store_flos()
        self._pin_best(state)
        self._name_best(state)
        for each in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(each, ExportableState):
                kept, now = state.stateful_callbacks, each.state()
                name = type(each).__name__
                if isinstance(kept.get(name), list):
                    kept[name].append(now)
                else:
                    kept[name] = now
        named = trainer.model.named_parameters(remove_duplicate=False)
        self._parameters = {f"model.{name}" for name, _ in named}
        told = json.dumps(dataclasses.asdict(state))
        self.checkpointer.save(state.global_step, {"trainer": told, **self._parts(), "rng": rng_state()})

    def _parts(self) -> dict[str, Any]:
        trainer = self._trainer
        if trainer.args.save_only_model:
            return {"model": trainer.model}
        parts = {"model": trainer.model, "optimizer": trainer.optimizer, "scheduler": trainer.lr_scheduler}
        scaler = getattr(trainer.accelerator, "scaler", None)
        return parts if scaler is None else parts | {"scaler": scaler}

    def _resume_and_train(self, resume_from_checkpoint: Any = None, *others: Any, **named: Any) -> Any:
        if resume_from_checkpoint is not True:
            return self._train(resume_from_checkpoint, *others, **named)
        found = Only(trainer=None)
        step = self.checkpointer.restore(found, allow_pickle=self._allow_pickle)
        if step is None:
            log.info("cairn: run '%s' has no step to resume from: the training begins anew", self.checkpointer.run)
            return self._train(None, *others, **named)
        with tempfile.TemporaryDirectory(prefix="cairn-trainer-") as folder:
            with open(os.path.join(folder, TRAINER_STATE_NAME), "w", encoding="utf-8") as file:
                file.write(found["trainer"])
            self._resumed = folder
            try:
                return self._train(folder, *others, **named)
            finally:
                self._resumed = None

    def _of_ours(self, ours: Any, theirs: Any) -> Any:
        """``ours`` where the step that is resumed from is one of Cairn's, else the Trainer's own method."""

        @functools.wraps(theirs)
        def load(checkpoint: Any, *others: Any, **named: Any) -> Any:
            return ours() if checkpoint is not None and checkpoint == self._resumed else theirs(checkpoint, *others, **named)

        return load

    def _nothing(self) -> None:
        """All is loaded at once, when optimizer and scheduler are there."""

    def _load(self) -> None:
        state = Only(self._parts(), rng=None)
        self.checkpointer.restore(state, self._step_resumed(), allow_pickle=self._allow_pickle)
        self._rng = state["rng"]

    def _step_resumed(self) -> int:
        return int(self._trainer.state.global_step)

    def _load_rng(self) -> None:
        """Called when the batches that were trained already have been passed over."""
        set_rng_state(self._rng)

    # The best model.

    def _name_best(self, state: Any) -> None:
        if state.best_global_step:
            state.best_model_checkpoint = f"cairn:{self.checkpointer.run}@{state.best_global_step}"

    def _pin_best(self, state: Any) -> None:
        """Keep the best step from retention, once it is committed: by the next save, for the daemon's answer is not waited for."""
        best, trainer = state.best_global_step, self._trainer
        if not trainer.args.load_best_model_at_end or not best or best == self._pinned or trainer.args.process_index != 0:
            return
        try:
            self.checkpointer.pin(best)
            if self._pinned is not None:
                self.checkpointer.unpin(self._pinned)
            self._pinned = best
        except (errors.NoSuchStep, errors.NoSuchRun):
            pass  # not committed yet
        except errors.CairnError as failure:
            log.warning("cairn: the best step %d could not be pinned: %s", best, failure)

    def _load_best(self) -> None:
        """Called at the end of a training; its steps have ended by then, or are waited for."""
        best = self._trainer.state.best_global_step
        self.checkpointer.wait_until_finished()
        try:
            self.checkpointer.restore(Only(model=self._trainer.model), best)
        except errors.NoSuchStep:
            log.warning("cairn: the best model's step %s is not there any more: the model stays as it was trained last", best)
