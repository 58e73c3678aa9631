"""Every bound of the client, with its reason, and the place of the daemon's socket."""

from __future__ import annotations

import os
from pathlib import Path

CONNECT_SECONDS = 5.0
"""Connecting and attaching: a healthy daemon answers in milliseconds."""

OPEN_SECONDS = 90.0
"""Opening a session: the daemon waits for the attempt's number, which rank 0's daemon publishes, a minute by default. That goes on
in the background, and a restore waits for it."""

START_SECONDS = 10.0
"""How long the constructor waits for the session. Longer takes a daemon that is stopped, or other ranks that start later; saves
fail until it is open, and training goes on."""

AUTOSTART_SECONDS = 20.0
"""Until a daemon that this client started answers: it listens within a second, on a busy machine or a slow home a few."""

AUTOSTART_POLL_SECONDS = 0.05

AUTOSTART_LOG_BYTES = 2000
"""Of what a daemon wrote that did not start, for the error's text."""

CALL_SECONDS = 30.0
"""Any short call. A daemon that takes longer is treated as gone: the session ends and is opened anew."""

FENCE_SECONDS = 30.0
"""Used where the daemon names no ``fenceMs``: how long staging may stand still before the client gives up."""

BRANCH_SECONDS = 600.0
"""Beginning a run as a branch: links where the filesystem can share bytes, else a copy of the step's files."""

CLOSE_SECONDS = 60.0
"""How long close() and the exit hook wait until the last save is staged."""

FINISH_SECONDS = 600.0
"""Default bound of wait_until_finished() and Save.wait()."""

RESTORE_SECONDS = 1800.0
"""Default bound of a restore's agreement: other ranks may still load."""

RESTORE_TRIES = 16
"""How many older steps one restore() goes back to before it gives up."""

RECONNECT_FIRST_SECONDS = 0.1
RECONNECT_LAST_SECONDS = 10.0
"""Backoff between attempts to reach the daemon, doubled from the first to the last."""

LOAD_SECONDS = 150.0
"""One lease's bytes from the slowest tier; the daemon itself gives up on a tier's worker after 120 s."""

LEASE_BYTES = 8 << 20
LEASES = 3
"""What a restore reads through, in turns. Fresh memory is slow to touch for the first time, and three of this size stay in
the processor's cache on their way from the daemon's memory to the tensors: 1.5 times as fast as two of 32 MiB."""

TIER_LEASE_BYTES = 32 << 20
TIER_LEASES = 3
"""Taken as well when the bytes come from a tier, which reads right into them: a drive needs some chunks to be read at once. Two of
64 MiB are as fast and more memory, four of 16 are slower."""

LEASE_SPARE = 16
"""A lease's 16th part is not asked for: the daemon reads whole blocks of 256 KiB into it, of which the first and the last of each
file's part hold less that was asked for."""

LOST_LEASES = 4
"""Times that a load begins anew because a tier did not answer: once for each, and once more for one that ended meanwhile."""

LEAST_LEASE_BYTES = 1 << 20
LEASE_RETRY_SECONDS = 0.1
"""Where the daemon has lent nearly all to other ranks, a smaller lease is taken; below this, wait for theirs to come back."""

RING_BYTES = 64 << 20
RING_SLOTS = 4
RING_SLOT_BYTES = 32 << 20
"""What streamed tensors go through: at least so many leases, of at most so many bytes each. While one is filled, others are
copied on by the daemon. A larger ring lets a GPU's optimizer go on sooner: when what is left to copy fits it."""

RING_LEAST_BYTES = 4 << 20
RING_MOST_BYTES = 2 << 30
"""64 leases of a session, of which a restore needs some."""

RING_SHARE = 2
"""All rings of a node together take at most one in so many of the bytes that its daemon lends: restores need the others."""

BOX_BYTES = 4 << 20
"""A streamed tensor whose elements are not in order is copied in boxes of at most this."""

PIECES_PER_PUT = 8192
"""As the daemon takes them (DaemonLimits.piecesPerPut)."""

CLONE_BYTES = 256 << 20
"""Streamed tensors that no guarded optimizer owns are first copied on their own device, if they are this small together; else
save() waits until they are copied for good."""

SMALL_LAZY_BYTES = 4 << 20
"""Beside streamed tensors, lazy ones of the CPU this small together are copied before save() returns, as the step counters of an
optimizer whose other state is on a GPU: the fence then waits on the GPU only."""

LEASE_ALIGNMENT = 4096
"""Each box is assumed to begin at a multiple of this in a lease, so that what is asked for always fits."""

REPLY_BYTES = 512 << 20
"""A longer reply is refused: it is not the daemon that we know."""

BOXES_PER_LOAD = 16384
"""Keeps a Load's message far below the daemon's limit on messages."""

NAMES_SHOWN = 5
"""Names that an error or a line of the log lists; Mismatch and Checkpointer.last_restore have all."""

ALIAS_TREES = 64
"""Ranks' trees that a restore of another world size reads to find what a tied tensor was stored as, before it is missed."""

SCRATCH_LEAF_BYTES = 1 << 20
SCRATCH_BYTES = 32 << 20
"""An eager tensor that comes with a new address at every save is copied into a kept buffer, if it is this small and all
of them together are: registering the layout anew would cost more."""

RUNS = 1024
"""Pieces of memory that the daemon may put one array together from, where its parts lie on several of jax's devices. Of more, each
would cost more in messages than the copy that this client then makes before each save."""

CONVERT_BYTES = 64 << 20
"""What an export to safetensors holds of the step at a time: as much as the leases that fill it."""

EXPORT_SHARD_BYTES = 4 << 30
"""One file of an export to hf: transformers maps or reads file by file, and hubs want them below 5 GB."""

EXPORT_DCP_BYTES = 512 << 20
"""One file of an export to dcp: torch's writer keeps all tensors of a file in memory until that is written."""

IMPORT_SECONDS = 86400.0
"""Until an import is committed: a large model from a slow disk. The daemon itself ends a save that stands still."""

MTBF_SECONDS = 86400.0
"""Between failures of a job that says nothing of them."""

FIRST_INTERVAL_SECONDS = 600.0
"""Between saves of every="auto" until the daemon has measured one."""

INTERVAL_ASKED_SECONDS = 30.0
"""How often rank 0 asks for the interval of every="auto"; the daemon answers from memory."""

ADVICE_SECONDS = 2.0
"""The interval is waited for this long: a daemon that is slow must not hold up a step."""

GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL by default in torchrun's agent, Slurm (KillWait) and Kubernetes (terminationGracePeriodSeconds)."""

STAGINGS = 8
"""Saves by which preempted() tells what the next one needs: enough to have seen a slow one, few enough to forget it."""

EARLY_EVENTS = 256
"""Events of saves whose reply has not come yet; older ones are dropped."""


def default_socket() -> str:
    """Where the daemon listens: CAIRN_SOCKET, else the first that exists of the system's, the login's and the user's own socket."""
    named = os.environ.get("CAIRN_SOCKET")
    if named:
        return named
    candidates = [Path("/run/cairn/cairn.sock")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        candidates.append(Path(runtime) / "cairn" / "cairn.sock")
    for candidate in candidates:
        if candidate.exists():
            return str(candidate)
    return str(_home_socket())


def own_socket() -> str:
    """Where a daemon of this user's own listens that is started without more: as cairnd's embedded default."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return str(Path(runtime) / "cairn" / "cairn.sock" if runtime and os.path.isdir(runtime) else _home_socket())


def _home_socket() -> Path:
    return Path.home() / ".local" / "state" / "cairn" / "cairn.sock"
