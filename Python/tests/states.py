"""States that tests save, and how they are compared: bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cairn import dtypes


def every_dtype(seed: int = 0) -> dict[str, torch.Tensor]:
    """A tensor of each dtype, filled with random bits (bool: 0 and 1)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, size in dtypes.BYTES.items():
        bits = torch.randint(0, 2 if name == "BOOL" else 256, (5, 3 * size), dtype=torch.uint8, generator=generator)
        state[name] = bits.view(dtypes.to_torch(name))
    return state


def bits(tensor: Any) -> bytes:
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).tobytes()
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return bytes(plain.flatten().view(torch.uint8).numpy().tobytes()) if plain.numel() else b""


def assert_same(left: Any, right: Any, path: str = "state") -> None:
    """Equal structure, dtypes, shapes and bits."""
    if isinstance(left, torch.Tensor | np.ndarray):
        assert type(left) is type(right) or isinstance(right, torch.Tensor), path
        assert (left.dtype, tuple(left.shape)) == (right.dtype, tuple(right.shape)), path
        assert bits(left) == bits(right), path
    elif isinstance(left, dict):
        assert set(left) == set(right), path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{path}.{index}")
    else:
        assert type(left) is type(right), path
        assert left == right, path


def emptied(node: Any) -> Any:
    """The same structure with tensors of zeros, and without values."""
    if isinstance(node, torch.Tensor):
        return torch.zeros(node.shape, dtype=torch.uint8).to(node.dtype) if node.numel() == 0 else torch.zeros_like(node)
    if isinstance(node, np.ndarray):
        return np.zeros_like(node)
    if isinstance(node, dict):
        return {key: emptied(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(emptied(value) for value in node)
    return None
