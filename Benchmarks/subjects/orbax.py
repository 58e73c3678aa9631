"""Orbax's AsyncCheckpointer, on numpy views of the state's tensors (bfloat16 by ml_dtypes)."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import torch
from workload import State

from .base import WAIT_SECONDS, Background, Pending, Subject

SMALL_BYTES = 64 << 10
"""Of a tensor, on average: with smaller ones OCDBT, a few files for all, is faster than a folder for each tensor."""


class Orbax(Subject):
    """save() returns once it has copied the arrays: there is no fence after it."""

    name = "orbax"
    settings = "AsyncCheckpointer, OCDBT and compression off (both cost time here), synced at the end of wait_until_finished()"

    def __init__(self, state: State, folder: Path) -> None:
        super().__init__(state, folder)
        for name in ("absl", "orbax"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._waiter = ThreadPoolExecutor(1, "orbax-end")
        small = state.bytes < SMALL_BYTES * len(state.tensors)
        self._saver = ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(use_ocdbt=small, use_compression=False),
            async_options=ocp.AsyncOptions(timeout_secs=int(WAIT_SECONDS)),
        )

    def begin(self) -> Pending:
        self._saver.save(self.target, args=ocp.args.PyTreeSave({name: array(each) for name, each in self.state.tensors.items()}))
        # post_finalization_callback comes before the folder has its name, so a thread waits for the end.
        return Background(self.target, None, self._waiter.submit(self._saver.wait_until_finished))

    def load(self) -> None:
        found: Any = self._saver.restore(
            self.target,
            args=ocp.args.PyTreeRestore(
                restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in self.state.tensors}
            ),
        )
        for name, tensor in self.state.tensors.items():
            np.copyto(array(tensor), found[name])

    def close(self) -> None:
        self._waiter.shutdown()
        self._saver.close()
        super().close()


def array(tensor: torch.Tensor) -> Any:
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if tensor.dtype is torch.bfloat16 else tensor.numpy()
