"""DeepSpeed's universal checkpoint folder, as its ds_to_universal.py writes it and ZeRO 1 and 2 load it into any number of ranks.

    zero/NAME/fp32.pt, exp_avg.pt, exp_avg_sq.pt   of each parameter of the optimizer, the whole: {"param": tensor}, in float32
    zero/NAME/step.pt                              its count of optimizer steps, a number
    zero/optimizer_state.pt                        param_groups without their parameters, and DeepSpeed's version
    mp_rank_00_model_states.pt                     param_shapes: names and shapes of the parameters by group; step, world sizes

NAME is as in named_parameters(). One tensor after the other is in memory. What the optimizer does not own (buffers, frozen
parameters) has no place in this form: DeepSpeed's universal load takes nothing of the module from its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import errors
from .source import Report, Source, size_of, unreadable
from .tensor_files import Choice

MOMENTS = ("exp_avg", "exp_avg_sq")
MODEL_FILE = "mp_rank_00_model_states.pt"
OPTIMIZER_FILE = "optimizer_state.pt"
DS_VERSION = "0.19.8"
"""Whose layout this is. DeepSpeed refuses a folder without, or one of ZeRO 1 older than 0.3.17."""


@dataclass
class Parameter:
    """One that the optimizer owns: the model's tensor and its state."""

    name: str
    weight: torch.Tensor
    state: Mapping[str, Any]


def export_folder(source: Source, path: Path, choice: Choice) -> Report:
    state, _, made = source.outline()
    model, optimizer = _model(state, choice.prefix or "model."), _optimizer(state)
    groups = [list(_parameters(model, optimizer, number)) for number in range(len(optimizer["param_groups"]))]
    found = [parameter for group in groups for parameter in group]
    written: set[str] = set()

    def load(tensor: torch.Tensor) -> torch.Tensor:
        _, stored = made[id(tensor)]
        whole = source.empty(stored)
        source.fill(whole, stored)
        written.add(stored.name)
        return whole.float()

    files = {each.name: {"fp32": each.weight} | {key: each.state[key] for key in MOMENTS} for each in found}
    total, done = sum(size_of(made[id(tensor)][1]) for of_one in files.values() for tensor in of_one.values()), 0
    for each in found:
        folder = path / "zero" / each.name
        folder.mkdir(parents=True)
        for key, tensor in files[each.name].items():
            source.told(done, total)
            torch.save({"param": load(tensor)}, folder / f"{key}.pt")
            done += size_of(made[id(tensor)][1])
        if "step" in each.state:
            count = each.state["step"]
            torch.save(load(count) if isinstance(count, torch.Tensor) else count, folder / "step.pt")
    source.told(done, total)
    left_out = ("params", "param_names")
    settings = [{key: value for key, value in group.items() if key not in left_out} for group in optimizer["param_groups"]]
    torch.save({"ds_version": DS_VERSION, "param_groups": settings}, path / "zero" / OPTIMIZER_FILE)
    shapes = [{each.name: each.weight.shape for each in group} for group in groups]
    about = {"ds_version": DS_VERSION, "param_shapes": shapes, "global_steps": source.step, "skipped_steps": 0}
    torch.save({"module": {}, "dp_world_size": 1, "mp_world_size": 1, "lr_scheduler": None, **about}, path / MODEL_FILE)
    return Report(source.step, len(written), total, sorted(source.names - written))


def _model(state: Any, prefix: str) -> Mapping[str, torch.Tensor]:
    """The tensors below ``prefix``, by what follows it."""
    found: dict[str, torch.Tensor] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, torch.Tensor) and name.startswith(prefix):
            found[name.removeprefix(prefix)] = node
        elif isinstance(node, Mapping):
            for key, value in node.items():
                walk(value, f"{name}.{key}" if name else str(key))

    walk(state, "")
    if not found:
        raise errors.CannotConvert(f"no tensor is named '{prefix}…': say where the model is in the state (prefix, --prefix)")
    return found


def _optimizer(state: Any) -> Mapping[str, Any]:
    """The one optimizer's state_dict() in it."""
    found: list[Mapping[str, Any]] = []

    def walk(node: Any) -> None:
        if isinstance(node, Mapping):
            if "state" in node and "param_groups" in node:
                found.append(node)
            else:
                for value in node.values():
                    walk(value)

    walk(state)
    if len(found) != 1:
        raise errors.CannotConvert(
            f"a universal folder has one optimizer's state, and this step has {len(found)}: save a step with one, or export to "
            "another form"
        )
    return found[0]


def _parameters(model: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any], number: int) -> Iterator[Parameter]:
    """Those of a group in its order. Names are the optimizer's own; where it has none, and one group, the model's that fit."""
    group = optimizer["param_groups"][number]
    keys = list(group["params"])
    names = [str(key) for key in keys] if all(isinstance(key, str) for key in keys) else group.get("param_names")
    if names is None:
        unique: dict[int, str] = {}  # tied ones have the first of their names, as in named_parameters()
        for name, tensor in model.items():
            unique.setdefault(id(tensor), name)
        names = list(unique.values())
        moments = [optimizer["state"].get(key, {}).get(MOMENTS[0]) for key in keys]
        shapes = [tuple(moment.shape) if isinstance(moment, torch.Tensor) else None for moment in moments]
        if len(optimizer["param_groups"]) != 1 or shapes != [tuple(model[name].shape) for name in names]:
            raise errors.CannotConvert(
                "which parameter each state of the optimizer belongs to cannot be told: give the optimizer names, as "
                "torch.optim.AdamW(model.named_parameters()), and save a step anew"
            )
    for key, name in zip(keys, names, strict=True):
        state = optimizer["state"].get(key)
        if name not in model:
            raise errors.CannotConvert(f"the optimizer owns '{name}', and the model has no such parameter: check the prefix")
        if state is None or not all(isinstance(state.get(moment), torch.Tensor) for moment in MOMENTS):
            raise errors.CannotConvert(
                f"'{name}' has no {' and '.join(MOMENTS)} in the optimizer's state: the form is made for Adam, after its first step"
            )
        yield Parameter(name, model[name], state)


def read_folder(path: Path, prefix: str, allow_pickle: bool) -> Any:
    """Its state as a Checkpointer saves {"model": model, "optimizer": optimizer}: the weights in float32, and the optimizer's
    state_dict() with names."""
    if not (path / "zero").is_dir() or not (path / MODEL_FILE).is_file():
        raise errors.CannotConvert(f"'{path}' has no folder 'zero' or no '{MODEL_FILE}': name one that ds_to_universal.py wrote")
    shapes = _read(path / MODEL_FILE, allow_pickle)["param_shapes"]
    groups = _read(path / "zero" / OPTIMIZER_FILE, allow_pickle)["param_groups"]
    if len(shapes) != len(groups):
        raise errors.CannotConvert(
            f"'{path}' has {len(groups)} groups of parameters, and shapes of {len(shapes)}: it is of ZeRO 3 or of a pipeline"
        )
    model: dict[str, Any] = {}
    state: dict[int, dict[str, Any]] = {}
    for group, of_group in zip(groups, shapes, strict=True):
        group["params"] = list(range(len(state), len(state) + len(of_group)))
        group["param_names"] = list(of_group)
        for name in of_group:
            folder = path / "zero" / name
            model[name] = _read(folder / "fp32.pt", allow_pickle)["param"]
            state[len(state)] = {key: _read(folder / f"{key}.pt", allow_pickle)["param"] for key in MOMENTS}
            if (folder / "step.pt").exists():
                count = _read(folder / "step.pt", allow_pickle)
                state[len(state) - 1]["step"] = torch.as_tensor(count, dtype=torch.float32)
    return {prefix.rstrip(".") or "model": model, "optimizer": {"state": state, "param_groups": groups}}


def _read(path: Path, allow_pickle: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=not allow_pickle)
    except Exception as failure:  # a pickle can raise anything
        raise unreadable(path, "torch.load()", failure) from failure
