"""safetensors files of whole tensors, alone or as transformers' folders.

    NAME.safetensors                    u64 bytes of the header, the header (JSON, padded to 8), tensors, larger types first
    model.safetensors                   of a folder: the one file
    model-00001-of-0000N.safetensors    of a folder: several, in the order of the tensors' names
    model.safetensors.index.json        {"metadata": {"total_size": BYTES}, "weight_map": {NAME: FILE}}, where there are several

Sources: https://github.com/huggingface/safetensors (format), transformers/modeling_utils.py (names and index).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import dtypes, errors, limits
from ..plan import Stored, some
from .source import Report, Source, portions, size_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LACKS = frozenset({"C128"})
"""Of Cairn's dtypes, those that the format has no name for."""


@dataclass(frozen=True)
class Choice:
    """What export_step was asked for: see there."""

    prefix: str = ""
    shard_bytes: int = limits.EXPORT_SHARD_BYTES
    beside: list[Path] = field(default_factory=list)


def export_file(source: Source, path: Path, choice: Choice) -> Report:
    found = _found(source, choice)
    _write(source, path, found, 0, _bytes(found))
    return _report(source, found)


def export_folder(source: Source, path: Path, choice: Choice) -> Report:
    if choice.shard_bytes < 1:
        raise ValueError(f"a file of {choice.shard_bytes} bytes holds nothing")
    found = _found(source, choice)
    files = [dict(each) for each in portions(sorted(found.items()), lambda item: size_of(item[1]), choice.shard_bytes)]
    total, done = _bytes(found), 0
    path.mkdir()
    places: dict[str, str] = {}
    for number, each in enumerate(files, start=1):
        file = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        places |= dict.fromkeys(each, file)
        _write(source, path / file, each, done, total)
        done += _bytes(each)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for beside in choice.beside:
        if (path / beside.name).exists():
            raise errors.CannotConvert(f"'{beside}' has the name of what is written itself: leave it out")
        shutil.copyfile(beside, path / beside.name)
    return _report(source, found)


def _found(source: Source, choice: Choice) -> dict[str, Stored]:
    found = source.tensors(choice.prefix)
    lacking = [f"{name} ({stored.dtype})" for name, stored in sorted(found.items()) if stored.dtype in _LACKS]
    if lacking:
        raise errors.CannotConvert(f"safetensors has no such dtype: {some(lacking)}; export to torch or dcp")
    if "__metadata__" in found:
        raise errors.CannotConvert("safetensors keeps the name '__metadata__' for itself: export to torch or dcp")
    return found


def _bytes(found: Mapping[str, Stored]) -> int:
    return sum(map(size_of, found.values()))


def _report(source: Source, found: Mapping[str, Stored]) -> Report:
    left_out = sorted(source.names - {stored.name for stored in found.values()})
    return Report(source.step, len(found), _bytes(found), left_out)


def _write(source: Source, path: Path, found: Mapping[str, Stored], done: int, total: int) -> None:
    """One file; ``done`` of the ``total`` bytes are in others."""
    order = sorted(found.items(), key=lambda item: (-dtypes.BYTES[item[1].dtype], item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers takes no file without it
    at = 0
    for name, stored in order:
        header[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [at, at + size_of(stored)]}
        at += size_of(stored)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        source.told(done, total)
        for piece in source.stream(stored for _, stored in order):
            file.write(piece)
            done += len(piece)
            source.told(done, total)


def read_file(path: Path, prefix: str, allow_pickle: bool) -> Any:
    """The tensors of one file as a state to save; they stay in the file until their bytes are read."""
    return _nested(_tensors(path), prefix)


def read_folder(path: Path, prefix: str, allow_pickle: bool) -> Any:
    """The same of a folder of transformers."""
    index = path / INDEX
    if not index.exists():
        if not (path / SINGLE).exists():
            raise errors.CannotConvert(f"'{path}' has neither '{INDEX}' nor '{SINGLE}': name a folder of save_pretrained()")
        return _nested(_tensors(path / SINGLE), prefix)
    try:
        places = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as failure:
        raise errors.CannotConvert(f"'{index}' is not an index of transformers: {failure!r}; fetch it again") from failure
    found: dict[str, Any] = {}
    for file in sorted(set(places.values())):
        if Path(str(file)).name != file or not (path / file).exists():
            raise errors.CannotConvert(f"'{index}' names '{file}', which is not in its folder: fetch that file too")
        found |= _tensors(path / file)
    if found.keys() != places.keys():
        differ = some(sorted(found.keys() ^ places.keys()))
        raise errors.CannotConvert(f"'{index}' and its files differ in {differ}: fetch them again")
    return _nested(found, prefix)


def _tensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as failure:
        raise errors.CannotConvert("safetensors files are read by that library: pip install safetensors") from failure
    try:
        with safe_open(path, framework="pt") as file:  # maps it
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, ValueError) as failure:
        raise errors.CannotConvert(f"'{path}' is not a whole safetensors file: {failure}") from failure


def _nested(found: dict[str, Any], prefix: str) -> Any:
    """A dict in the dict for each part of ``prefix``, so that a tensor is stored as prefix + name."""
    if prefix and not prefix.endswith("."):
        raise errors.CannotConvert(f"the prefix '{prefix}' names a place in the state: end it with a dot, as '{prefix}.'")
    state: Any = found
    for key in reversed(prefix.split(".")[:-1]):
        state = {key: state}
    return state
