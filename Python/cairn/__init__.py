"""Cairn's trainer side: asynchronous checkpoints through the node's cairnd daemon. See Checkpointer."""

from __future__ import annotations

from .checkpointer import Checkpointer
from .errors import (
    AttemptEnded,
    Busy,
    CairnError,
    CannotAgree,
    CannotConvert,
    CannotStart,
    CannotWatch,
    CheckpointFailed,
    Corrupt,
    Draining,
    Failed,
    InvalidShard,
    LeaseLost,
    LevelNotAsked,
    Mismatch,
    NoAttempt,
    NoCommit,
    NoSpace,
    NoSuchRun,
    NoSuchStep,
    NotOpen,
    NotPermitted,
    NotSupported,
    NotWhole,
    PickleRefused,
    ProtocolError,
    RankTaken,
    TierDown,
    TimedOut,
    TooLarge,
    Unavailable,
    UnknownLayout,
    UnknownSave,
    UnsupportedTensor,
    WireError,
    WorldSizeChanged,
)
from .flat import FlatShard, flat_shards
from .history import newest_step
from .limits import default_socket
from .plan import Only
from .preemption import Preempted
from .reading import load
from .restore import Restored
from .rng import rng_state, set_rng_state
from .saves import Reached, Save

__version__ = "0.1.0"

__all__ = [
    "AttemptEnded", "Busy", "CairnError", "CannotAgree", "CannotConvert", "CannotStart", "CannotWatch", "CheckpointFailed",
    "Checkpointer", "Corrupt", "Draining", "Failed", "FlatShard", "InvalidShard", "LeaseLost", "LevelNotAsked", "Mismatch",
    "NoAttempt", "NoCommit", "NoSpace", "NoSuchRun", "NoSuchStep", "NotOpen", "NotPermitted", "NotSupported", "NotWhole",
    "Only", "PickleRefused", "Preempted", "ProtocolError", "RankTaken", "Reached", "Restored", "Save", "TierDown",
    "TimedOut", "TooLarge", "Unavailable", "UnknownLayout", "UnknownSave", "UnsupportedTensor", "WireError",
    "WorldSizeChanged", "default_socket", "flat_shards", "load", "newest_step", "rng_state", "set_rng_state",
]  # fmt: skip
