"""Steps of a run as files of other tools, and such files as the first step of a new run. Docs/conversion.md says more.

    safetensors   one file of tensors
    hf            a folder of them with an index, as transformers' save_pretrained() writes it
    torch         one file of torch.save(), the state as it was given to save()
    dcp           a folder of torch.distributed.checkpoint
    universal     DeepSpeed's universal checkpoint: a folder of each parameter, with its float32 weights and Adam's moments

Bytes come from and go to the daemon: from the nearest tier, each block checked, whatever the sharding they were saved in. What is
written has a name that begins with a dot until it is whole and synced, and nothing is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import errors, limits, pickles
from . import dcp_folder, output, tensor_files, torch_file, universal_folder
from .arrival import arrive
from .source import Report, Source, Told

__all__ = ["EXPORTS", "IMPORTS", "Report", "export_step", "import_step"]

_Export = Callable[[Source, Path, tensor_files.Choice], Report]

EXPORTS: dict[str, _Export] = {
    "safetensors": tensor_files.export_file,
    "hf": tensor_files.export_folder,
    "torch": torch_file.export_file,
    "dcp": dcp_folder.export_folder,
    "universal": universal_folder.export_folder,
}

IMPORTS = {
    "safetensors": tensor_files.read_file,
    "hf": tensor_files.read_folder,
    "torch": torch_file.read_file,
    "dcp": dcp_folder.read_folder,
    "universal": universal_folder.read_folder,
}


def export_step(
    run: str,
    step: int | None,
    to: str,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    rank: int | None = None,
    shard_bytes: int = limits.EXPORT_SHARD_BYTES,
    beside: Sequence[str | os.PathLike[str]] = (),
    allow_pickle: pickles.AllowPickle = False,
    socket: str | os.PathLike[str] | None = None,
    told: Told | None = None,
) -> Report:
    """Write a committed step as ``path``, which must not exist.

    Args:
        step: None: the newest that is not superseded.
        to: one of EXPORTS.
        prefix: of safetensors and hf: only tensors whose names begin with it, which is taken off. Of universal: that of the
            model's tensors, default "model.".
        rank: of a step that several ranks saved: whose own tensors and values are taken, beside what belongs to all.
        shard_bytes: of hf: how much one file holds at most, but for a tensor that is larger.
        beside: of hf: files to copy into the folder, as config.json and a tokenizer's.
        allow_pickle: of torch, dcp and universal: see pickles.AllowPickle.
        told: called with the bytes that are written and all that will be.
    Raises:
        CannotConvert: the step does not go into this form, or the path cannot be written. NoSuchStep.
            Unavailable: no daemon. Corrupt, TierDown, PickleRefused.
    """
    if to not in EXPORTS:
        raise ValueError(f"a step is exported to one of {', '.join(EXPORTS)}, not to '{to}'")
    if to in ("torch", "dcp") and prefix:
        raise errors.CannotConvert(f"a prefix selects tensors for safetensors and hf; {to} keeps the whole state: leave it out")
    if to != "hf" and beside:
        raise errors.CannotConvert("files are copied beside tensors in a folder of form hf only")
    for each in map(Path, beside):
        if not each.is_file():
            raise errors.CannotConvert(f"'{each}' is no file: name one to copy beside the tensors, or none")
    choice = tensor_files.Choice(prefix, shard_bytes, [Path(each) for each in beside])
    with output.published(Path(path)) as place, Source(run, step, rank, allow_pickle, socket, told) as source:
        return EXPORTS[to](source, place, choice)


def import_step(
    path: str | os.PathLike[str],
    form: str,
    run: str,
    step: int,
    *,
    prefix: str = "",
    allow_pickle: bool = False,
    socket: str | os.PathLike[str] | None = None,
    timeout: float = limits.IMPORT_SECONDS,
) -> Report:
    """Save what ``path`` holds as a step of a new run, and wait until it is committed.

    Args:
        form: one of IMPORTS.
        prefix: of safetensors and hf: where in the state the tensors go, as "model.", so that {"model": model} restores them. Of
            universal: the same for the weights, default "model."; what the optimizer had goes to "optimizer".
        allow_pickle: of torch, dcp and universal: let the file run code, as pickle does: only for files that one trusts.
        timeout: seconds until it must be committed.
    Raises:
        CannotConvert: the file is not of this form, or the run has steps. TimeoutError: it is not committed in time.
        Unavailable, CheckpointFailed, PickleRefused, UnsupportedTensor.
    """
    if form not in IMPORTS:
        raise ValueError(f"a step is imported from one of {', '.join(IMPORTS)}, not from '{form}'")
    if form in ("torch", "dcp") and prefix:
        raise errors.CannotConvert(f"a prefix is for tensors of safetensors and hf; {form} has a whole state: leave it out")
    source = Path(path)
    if not source.exists():
        raise errors.CannotConvert(f"'{source}' is not there: name the {form} file or folder to import")
    return arrive(run, step, lambda: IMPORTS[form](source, prefix, allow_pickle), socket, timeout)
