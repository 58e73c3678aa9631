"""Hugging Face accelerate: what Accelerator.save_state and load_state save and load, through Cairn.

    from cairn.accelerate import CairnState
    state = CairnState(accelerator, "bert")
    step = state.load_state() or 0
    state.save_state(step)

Saved are all that accelerator.prepare() was given and has a state (models, optimizers, schedulers), the gradient scaler, what was
registered by register_for_checkpointing(), random generators, and the accelerator's own counters. Each rank saves: parameters and
optimizer state of DDP are written once, by the ranks together; those of FSDP2 in their shards. Where a prepared optimizer steps, it
waits for what a save has not copied yet.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import DistributedType

from .checkpointer import Checkpointer
from .pickles import AllowPickle
from .rng import rng_state, set_rng_state
from .saves import Save


class CairnState:
    """The state of one Accelerator in a run.

    Args:
        run: its name.
        allow_pickle: as of cairn.Checkpointer.restore, for what registered objects keep.
        options: further ones of cairn.Checkpointer.
    Raises:
        ValueError: the parameters are FSDP1's, DeepSpeed's or Megatron's, which are not where the model says.
    """

    def __init__(self, accelerator: Any, run: str, *, allow_pickle: AllowPickle = False, **options: Any) -> None:
        sharded = accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2
        if sharded or accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
            raise ValueError(f"CairnState cannot save the parameters of {accelerator.distributed_type} (of FSDP, version 2 only)")
        self._accelerator = accelerator
        self._allow_pickle = allow_pickle
        known: dict[str, Any] = {
            "rank": accelerator.process_index, "world_size": accelerator.num_processes, "replicated": self._is_replicated,
        }  # fmt: skip
        self._parameters: set[str] = set()
        self.checkpointer = Checkpointer(run, **known | options)

    def save_state(self, step: int | None = None, **options: Any) -> Save:
        """Save as ``step``; default: the accelerator's count of saves, as its automatic naming has it. All ranks must call it.

        Args:
            options: of cairn.Checkpointer.save.
        Raises:
            ValueError: a dataloader keeps a state of its own; what save() raises.
        """
        accelerator = self._accelerator
        number = accelerator.save_iteration if step is None else step
        state = self._state()
        self._parameters = {
            f"models.{index}.{name}"
            for index, model in enumerate(state["models"])
            for name, _ in model.named_parameters(remove_duplicate=False)
        }
        self.checkpointer.guard(accelerator._optimizers)
        state["iteration"] = accelerator.project_configuration.iteration = number + 1
        return self.checkpointer.save(number, state | {"rng": rng_state()}, **options)

    def load_state(self, step: int | None = None, **options: Any) -> int | None:
        """Restore the newest whole step, or ``step``; None: there is nothing to restore. All ranks must call it.

        Args:
            options: of cairn.Checkpointer.restore."""
        state = self._state() | {"rng": None}
        restored = self.checkpointer.restore(state, step, allow_pickle=self._allow_pickle, **options)
        if restored is not None:
            self._accelerator.step = state["step"]
            self._accelerator.project_configuration.iteration = state["iteration"]
            set_rng_state(state["rng"])
        return restored

    def close(self) -> None:
        """Wait until all has ended that was saved, and let go of the daemon.

        Raises:
            CheckpointFailed: a save failed. TimeoutError: one has not ended in time."""
        self.checkpointer.finish()

    def _is_replicated(self, name: str) -> bool:
        """Of DDP, parameters and what is made of them; buffers, as BatchNorm's, differ until rank 0's are sent before a forward."""
        return name in self._parameters or name.startswith("optimizers.")

    def _state(self) -> dict[str, Any]:
        accelerator = self._accelerator
        if any(getattr(loader, "use_stateful_dataloader", False) for loader in accelerator._dataloaders):
            raise ValueError("a stateful dataloader must be registered: accelerator.register_for_checkpointing(dataloader)")
        state: dict[str, Any] = {
            "models": [accelerator.unwrap_model(model, keep_torch_compile=False) for model in accelerator._models],
            "optimizers": list(accelerator._optimizers),
            "schedulers": list(accelerator._schedulers),
            "registered": list(accelerator._custom_objects),
            "step": accelerator.step,
            "iteration": accelerator.project_configuration.iteration,
        }
        return state if accelerator.scaler is None else state | {"scaler": accelerator.scaler}
