"""What is compared: each saves the same state, and says what that cost the trainer and when the bytes were safe."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from .base import Failed, Pending, Subject, reason

PEERS = {
    "torch.save": ("torch_save", "TorchSave"),
    "safetensors": ("torch_save", "Safetensors"),
    "dcp.save": ("dcp", "DCPSave"),
    "dcp.async_save, thread": ("dcp", "DCPAsync"),
    "dcp.async_save, process": ("dcp", "DCPProcess"),
    "torch-checkpointing": ("checkpointing", "TorchCheckpointing"),
    "orbax": ("orbax", "Orbax"),
}
"""By name: module and class. They are imported when they are measured, as each brings libraries of its own."""
DCP_ASYNC = ("dcp.async_save, thread", "dcp.async_save, process")
ASYNC = (*DCP_ASYNC, "torch-checkpointing", "orbax")


def peer(name: str) -> type[Subject]:
    """Raises Failed where the package is not installed."""
    module, kind = PEERS[name]
    try:
        found: type[Subject] = getattr(importlib.import_module(f".{module}", __name__), kind)
    except ImportError as failure:
        raise Failed(f"not installed ({reason(failure)})") from failure
    return found


def settings() -> Iterator[tuple[str, str]]:
    """Of each peer that is installed."""
    for name in PEERS:
        try:
            yield name, peer(name).settings
        except Failed as failure:
            yield name, str(failure)


__all__ = ["ASYNC", "DCP_ASYNC", "PEERS", "Failed", "Pending", "Subject", "peer", "settings"]
