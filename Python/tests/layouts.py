"""Ways to lay one model out over ranks, and a process that is one rank of any of them: what the tests of resharding save and restore.

``python -c "import layouts; layouts.serve()" RANK PORT SOCKET`` joins a gloo group of four, makes every mesh once, and then does what it is
told line by line; a job of a smaller world is the first ranks of the four. What a restore must give is made by torch itself, or by
concatenating and cutting, never by the code under test.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import cairn
from cairn import limits

RANKS = 4


def tensors() -> dict[str, torch.Tensor]:
    """The model: four blocks of uneven shapes, some smaller than the world, of several dtypes; each value is another."""
    generator = torch.Generator().manual_seed(1)

    def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "blocks.0.rows": made(10, 6), "blocks.0.cube": made(5, 3, 4, dtype=torch.bfloat16),
        "blocks.1.even": made(12, 8), "blocks.1.vector": torch.randint(-99, 99, (7,), generator=generator),
        "blocks.2.tall": made(13, 3), "blocks.2.one": made(1, 9),
        "blocks.3.scalar": made(dtype=torch.float64), "blocks.3.wide": made(3, 16), "blocks.3.pairs": made(4, 3).to(torch.complex128),
    }  # fmt: skip


class Part(torch.Tensor):
    """Any box of a tensor, as a DTensor would hold it."""

    @staticmethod
    def __new__(cls, local: torch.Tensor, whole: tuple[int, ...], offsets: tuple[int, ...]) -> Part:
        return torch.Tensor._make_wrapper_subclass(cls, whole, dtype=local.dtype)  # type: ignore[attr-defined,no-any-return]

    def __init__(self, local: torch.Tensor, whole: tuple[int, ...], offsets: tuple[int, ...]) -> None:
        self._local_tensor = local
        self.box = tuple(whole), tuple(offsets), tuple(local.shape)
        self.placements: tuple[Any, ...] = ()
        self.device_mesh = self

    def get_coordinate(self) -> None:
        return None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        raise NotImplementedError(function)


def cut(tensor: torch.Tensor, offsets: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    return tensor[tuple(slice(begin, begin + extent) for begin, extent in zip(offsets, shape, strict=True))].clone()


Leaves = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """``make(rank, tensors)`` gives that rank's leaves of these whole tensors."""

    name: str
    world: int
    make: Callable[[int, dict[str, torch.Tensor]], Leaves]
    options: Callable[[int], dict[str, Any]] = lambda rank: {}


_meshes: dict[str, Any] = {}


def make_meshes() -> None:
    """By all ranks, in the same order: groups are made collectively."""
    from torch.distributed.device_mesh import DeviceMesh

    ranks = {"2": [0, 1], "3": [0, 1, 2], "4": [0, 1, 2, 3], "2x2": [[0, 1], [2, 3]], "first": [0, 1], "second": [2, 3]}
    _meshes.update({name: DeviceMesh("cpu", torch.tensor(mesh)) for name, mesh in ranks.items()})
    _meshes["named"] = DeviceMesh("cpu", torch.tensor(ranks["2x2"]), mesh_dim_names=("dp", "tp"))


def distributed(mesh: str, *dimensions: int | str) -> Callable[[int, dict[str, torch.Tensor]], Leaves]:
    """DTensors. For each dimension of the mesh: that of the tensor to shard (-1: the last), "copy", or "strided": FSDP2's over TP's."""

    def placed(tensor: torch.Tensor, how: int | str) -> Any:
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.placement_types import _StridedShard

        if how == "copy" or tensor.ndim == 0:
            return Replicate()
        if how == "strided":
            return _StridedShard(0, split_factor=2)
        return Shard(min(int(how), tensor.ndim - 1) if int(how) >= 0 else tensor.ndim - 1)

    def make(rank: int, whole: dict[str, torch.Tensor]) -> Leaves:
        from torch.distributed.tensor import distribute_tensor

        return {
            name: distribute_tensor(tensor.clone(), _meshes[mesh], [placed(tensor, how) for how in dimensions], src_data_rank=None)
            for name, tensor in whole.items()
        }

    return make


def plain(rank: int, whole: dict[str, torch.Tensor]) -> Leaves:
    return {name: tensor.clone() for name, tensor in whole.items()}


PADDING = 77


def zero(parts: int, *, align: int = 1, copies: int = 1) -> Callable[[int, dict[str, torch.Tensor]], Leaves]:
    """ZeRO-1/2 and FSDP1: for each dtype one flat buffer, padded and cut into equal parts; each part on ``copies`` ranks."""

    def make(rank: int, whole: dict[str, torch.Tensor]) -> Leaves:
        found: Leaves = {}
        part = rank // copies
        ranks = range(part * copies, (part + 1) * copies)
        for dtype in sorted({tensor.dtype for tensor in whole.values()}, key=str):
            some = {name: tensor for name, tensor in whole.items() if tensor.dtype == dtype}
            flat = []
            for tensor in some.values():
                flat += [tensor.reshape(-1), torch.full((-tensor.numel() % align,), PADDING, dtype=dtype)]
            joined = torch.cat(flat)
            joined = torch.cat([joined, torch.full((-len(joined) % parts,), PADDING, dtype=dtype)])
            mine = joined.chunk(parts)[part].clone()
            found |= cairn.flat_shards(mine, {name: tensor.shape for name, tensor in some.items()}, part, align=align, ranks=ranks)
        return found

    return make


def zero_3(rank: int, whole: dict[str, torch.Tensor]) -> Leaves:
    """Each tensor by itself is padded and cut."""
    found: Leaves = {}
    for name, tensor in whole.items():
        flat = torch.cat([tensor.reshape(-1), torch.full((-tensor.numel() % RANKS,), PADDING, dtype=tensor.dtype)])
        found |= cairn.flat_shards(flat.chunk(RANKS)[rank].clone(), {name: tensor.shape}, rank)
    return found


def stages(
    count: int, inner: Callable[[int, dict[str, torch.Tensor]], Leaves], width: int
) -> Callable[[int, dict[str, torch.Tensor]], Leaves]:
    """Pipeline stages of ``width`` ranks, each with its blocks as ``inner`` lays them out."""

    def make(rank: int, whole: dict[str, torch.Tensor]) -> Leaves:
        stage = rank // width
        mine = {name: tensor for name, tensor in whole.items() if int(name.split(".")[1]) * count // 4 == stage}
        return inner(rank, mine)

    return make


def by_stage(rank: int, whole: dict[str, torch.Tensor]) -> Leaves:
    return distributed("first" if rank < 2 else "second", 0)(rank, whole)


def everywhere(rank: int) -> dict[str, Any]:
    return {"replicated": True}


def own(rank: int) -> dict[str, Any]:
    return {"replicated": {"*": [rank]}}


def pairs(rank: int) -> dict[str, Any]:
    return {"replicated": {"*": [rank // 2 * 2, rank // 2 * 2 + 1]}}


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("one rank", 1, plain),
        Layout("DDP 2", 2, plain, everywhere),
        Layout("DDP 4", 4, plain, everywhere),
        Layout("FSDP2 2", 2, distributed("2", 0)),
        Layout("FSDP2 3", 3, distributed("3", 0)),
        Layout("FSDP2 4", 4, distributed("4", 0)),
        Layout("TP 2", 2, distributed("2", -1)),
        Layout("TP 3", 3, distributed("3", -1)),
        Layout("TP 4", 4, distributed("4", 1)),
        Layout("HSDP 2x2", 4, distributed("2x2", "copy", 0)),
        Layout("TP with copies 2x2", 4, distributed("2x2", 1, "copy")),
        Layout("FSDP2 x TP by rows 2x2", 4, distributed("2x2", "strided", 0)),
        Layout("FSDP2 x TP by columns 2x2", 4, distributed("2x2", 0, 1)),
        Layout("sharded twice 2x2", 4, distributed("2x2", 0, 0)),
        Layout("ZeRO 2", 2, zero(2)),
        Layout("ZeRO 3", 3, zero(3)),
        Layout("ZeRO 4", 4, zero(4)),
        Layout("FSDP1 aligned 3", 3, zero(3, align=8)),
        Layout("ZeRO with copies 2x2", 4, zero(2, copies=2)),
        Layout("ZeRO-3 4", 4, zero_3),
        Layout("PP 2", 2, stages(2, plain, 1), own),
        Layout("PP 4", 4, stages(4, plain, 1), own),
        Layout("PP x DDP 2x2", 4, stages(2, plain, 2), pairs),
        Layout("PP x FSDP2 2x2", 4, stages(2, by_stage, 2)),
    )
}


def local(leaf: Any) -> torch.Tensor:
    return getattr(leaf, "_local_tensor", leaf)


def raw(tensor: torch.Tensor) -> bytes:
    plain = tensor.contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).numpy().tobytes()) if plain.numel() else b""


class Rank:
    """What one process does."""

    def __init__(self, rank: int, socket: str) -> None:
        self._rank, self._socket = rank, socket
        self._checkpointer: cairn.Checkpointer | None = None

    def open(self, run: str, world: int, attempt: str, layout: str | None = None) -> None:
        options = LAYOUTS[layout].options(self._rank) if layout is not None else {}
        known = {"rank": self._rank, "world_size": world, "local_rank": self._rank, "local_world_size": world, "attempt": attempt}
        self._checkpointer = cairn.Checkpointer(run, socket=self._socket, shared=True, **known, **options)

    def close(self) -> None:
        assert self._checkpointer is not None
        self._checkpointer.close()

    def save(self, step: int, layout: str) -> str:
        assert self._checkpointer is not None
        save = self._checkpointer.save(step, {"model": LAYOUTS[layout].make(self._rank, tensors()), "epoch": step})
        return save.wait("committed", timeout=30).level

    def restore(self, step: int, layout: str) -> list[str]:
        """What is wrong with what came back: nothing."""
        assert self._checkpointer is not None
        blank = {name: torch.full_like(tensor, PADDING) for name, tensor in tensors().items()}
        into = LAYOUTS[layout].make(self._rank, blank)
        state = {"model": into, "epoch": None}
        # A stage holds less than a rank that saved everything: nothing is to be added to it.
        self._checkpointer.restore(state, step, names={} if layout.startswith("PP") else None)
        told = self._checkpointer.last_restore
        assert told is not None
        wrong = [f"{kind} {list(names)}" for kind, names in (("missing", told.missing), ("different", told.different)) if names]
        wrong += [f"epoch {state['epoch']}"] if state["epoch"] != step else []
        needed = 0
        for name, leaf in LAYOUTS[layout].make(self._rank, tensors()).items():
            needed += local(leaf).nbytes
            if raw(local(into[name])) != raw(local(leaf)):
                wrong.append(f"{name}: {local(into[name]).tolist()} is not {local(leaf).tolist()}")
        if not needed <= told.bytes <= needed + VALUES_BYTES:
            wrong.append(f"{told.bytes} bytes were loaded for {needed}")
        return wrong

    def real_modules(self, step: int) -> str:
        """torch's own FSDP2 over tensor parallel, with an optimizer that stepped: saved, and compared with what full_tensor() gives."""
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        assert self._checkpointer is not None
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        mesh = _meshes["named"]
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["dp"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.125)
        model(torch.randn(3, 6)).sum().backward()
        optimizer.step()
        moments = {name: optimizer.state[parameter]["exp_avg"] for name, parameter in model.named_parameters()}
        state = {"model": model.state_dict(), "moments": moments}
        level = self._checkpointer.save(step, state).wait("committed", timeout=30).level
        whole = {f"{kind}.{name}": tensor.full_tensor() for kind, part in state.items() for name, tensor in part.items()}
        if self._rank == 0:
            torch.save(whole, self._socket + ".whole")
        return f"{level} {sorted({str(p) for part in state.values() for tensor in part.values() for p in tensor.placements})}"

    def real_flat_parameter(self, step: int) -> str:
        """torch's own FSDP1, once with parameters back to back and once with aligned ones: its flat parameter's shard, saved by names."""
        from torch.distributed.fsdp import FullyShardedDataParallel

        assert self._checkpointer is not None
        state = {}
        for kind, aligned in (("packed", False), ("aligned", True)):
            torch.manual_seed(4)
            model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
            shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
            wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=aligned)
            flat = wrapped._handle.flat_param
            state[kind] = cairn.flat_shards(flat.data, shapes, self._rank, align=4 if aligned else 1)
        return self._checkpointer.save(step, state).wait("committed", timeout=30).level

    def refused(self, step: int) -> list[str]:
        """What a partial tensor, and one that is no box, say when they are saved and when they are restored into."""
        from torch.distributed.tensor import DTensor, Partial, Shard
        from torch.distributed.tensor.placement_types import _StridedShard

        assert self._checkpointer is not None
        mesh = _meshes["2x2"]
        found = []
        for placements, rows in (([Partial(), Shard(0)], 4), ([Shard(0), _StridedShard(0, split_factor=2)], 2)):
            odd = DTensor.from_local(torch.zeros(rows, 2), mesh, placements, run_check=False, shape=(8, 2), stride=(2, 1))
            for act in (
                lambda state: self._checkpointer.save(step + 1, state),
                lambda state: self._checkpointer.restore(state, step),
            ):
                try:
                    act({"model": {"w": odd}})
                    found.append("accepted")
                except cairn.UnsupportedTensor as failure:
                    found.append(str(failure))
        return found


VALUES_BYTES = 16 << 10
"""More than the trees and plain values of any of these layouts that a restore reads."""


def serve() -> None:
    import torch.distributed as dist

    rank, port, socket = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    limits.LEASE_BYTES = limits.LEAST_LEASE_BYTES = 64 << 10  # fresh memory costs more than all else that these ranks do
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    dist.init_process_group("gloo")
    make_meshes()
    this = Rank(rank, socket)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = getattr(this, name)(*arguments)
        except Exception as failure:
            answer = f"{type(failure).__name__}: {failure}"
        print(json.dumps(answer), flush=True)
    sys.stdout.flush()
    os._exit(0)  # see test_ranks: a thread of Gloo may abort the process at the interpreter's end
