"""Which of the ranks of this launch share this node, by what its launcher says: torchrun, else Slurm, Open MPI, Hydra or PMI.

A launcher's word counts only if it started all the ranks: one task on each node that forks a rank for each GPU, as some scripts
do, says nothing of ranks. So its number of tasks must be the world's size.
"""

from __future__ import annotations

import os
import re

from . import process

_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
)


def local(rank: int | None, size: int | None, world_size: int) -> tuple[int | None, int | None]:
    """The local rank and the local world size, as far as they were given or can be known.

    Raises:
        ValueError: torchrun's variables are no numbers, or what was given cannot be.
    """
    if size is not None and not 1 <= size <= world_size:
        raise ValueError(f"a local world size of {size} in a world of {world_size}")
    if world_size == 1 and rank is None and size is None:  # whatever it is a part of
        return 0, 1
    rank = process.optional("LOCAL_RANK", rank)
    size = process.optional("LOCAL_WORLD_SIZE", size)
    if size is None:
        found_rank, size = _of_launcher(world_size)
        rank = found_rank if rank is None else rank
    if size is not None and not 1 <= size <= world_size:  # of a larger world that this one is a part of
        size = None
    fits = rank is None or 0 <= rank < (world_size if size is None else size)
    return (rank if fits else None), size


def node(rank: int, local_rank: int | None, size: int | None, world_size: int) -> range:
    """The ranks on this node, where each node's follow one another, as launchers place them by default; empty where that is not
    known. Wrong only for a cyclic placement, whose nodes then keep too few copies of replicas, or too many."""
    if local_rank is None or size is None or not 0 <= rank - local_rank <= world_size - size:
        return range(0)
    return range(rank - local_rank, rank - local_rank + size)


def _of_launcher(world_size: int) -> tuple[int | None, int | None]:
    if _number("SLURM_STEP_NUM_TASKS") == world_size and _number("SLURM_LOCALID") is not None:
        return _number("SLURM_LOCALID"), _slurm_tasks_here()
    for tasks, local_rank, local_size in _LAUNCHERS:
        if _number(tasks) == world_size and _number(local_size) is not None:
            return _number(local_rank), _number(local_size)
    return None, None


def _slurm_tasks_here() -> int | None:
    """The step's tasks on this node. Variables of the job, not of the step, may speak of more nodes and tasks than the step has."""
    node = _number("SLURM_NODEID")
    counts = tasks_per_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if counts is not None and node is not None and node < len(counts):
        return counts[node]
    nodes, tasks, each = (_number(f"SLURM_{name}") for name in ("STEP_NUM_NODES", "STEP_NUM_TASKS", "NTASKS_PER_NODE"))
    return each if nodes is not None and each is not None and tasks == nodes * each else None


def tasks_per_node(text: str) -> list[int] | None:
    """Slurm's "2(x3),1": [2, 2, 2, 1]. None: it is something else."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part.strip())
        if found is None:
            return None
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() else None
