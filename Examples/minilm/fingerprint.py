"""One SHA-256 of all that a training run must have again to go on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch


def fingerprint(state: dict[str, Any]) -> str:
    """Of every bit of parameters, buffers, optimizer state, schedule, RNG and plain values, with their names."""
    digest = hashlib.sha256()

    def take(name: str, value: Any) -> None:
        if hasattr(value, "state_dict"):
            take(name, value.state_dict())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                take(f"{name}.{key}", value[key])
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                take(f"{name}.{index}", item)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy())
        elif isinstance(value, bytes):
            digest.update(f"{name} bytes {len(value)}\n".encode() + value)
        else:
            # repr of a float is exact; json keeps strings apart from numbers.
            text = repr(value) if isinstance(value, float) else json.dumps(value)
            digest.update(f"{name} {text}\n".encode())

    take("state", state)
    return digest.hexdigest()
