"""Any saved parallelism restores into any other: every pair of a table of layouts, byte for byte, and random ones."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import Job, reason
from layouts import LAYOUTS, RANKS, Part, cut
from real_daemon import Cluster, Daemon, trainer

import cairn
from cairn import placement

pytestmark = pytest.mark.daemon

TESTS = Path(__file__).parent


class Ranks:
    """Four processes that are the ranks of one job after another."""

    def __init__(self, daemon: Daemon) -> None:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = store.port
        del store
        script = "import layouts; layouts.serve()"
        path = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        self._processes = [trainer(script, str(rank), str(port), daemon.socket, environment=path) for rank in range(RANKS)]
        self._world = RANKS
        assert self._hear() == ["ready"] * RANKS

    def _hear(self) -> list[Any]:
        answers = []
        for process in self._processes[: self._world]:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        return answers

    def all(self, *command: Any) -> list[Any]:
        for process in self._processes[: self._world]:
            assert process.stdin is not None
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        return self._hear()

    def open(self, run: str, world: int, layout: str | None = None) -> None:
        self._world = world
        assert self.all("open", run, world, secrets.token_hex(8), layout) == [None] * world

    def end(self) -> None:
        for process in self._processes:
            process.communicate(timeout=20)


@pytest.fixture(scope="module")
def ranks(shared: Daemon) -> Iterator[Ranks]:
    found = Ranks(shared)
    yield found
    found.end()


@pytest.fixture(scope="module")
def saved(ranks: Ranks) -> dict[str, int]:
    """The step of the run "table" that each layout saved."""
    steps = {}
    for step, layout in enumerate(LAYOUTS.values(), start=1):
        ranks.open("table", layout.world, layout.name)
        assert ranks.all("save", step, layout.name) == ["committed"] * layout.world
        assert ranks.all("close") == [None] * layout.world
        steps[layout.name] = step
    return steps


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_layout_restores_every_other(ranks: Ranks, saved: dict[str, int], world: int) -> None:
    wrong = []
    ranks.open("table", world)
    for (before, step), after in itertools.product(saved.items(), (each for each in LAYOUTS.values() if each.world == world)):
        for rank, answer in enumerate(ranks.all("restore", step, after.name)):
            if answer:
                wrong.append(f"{before} -> {after.name}, rank {rank}: {answer}")
    ranks.all("close")
    assert not wrong, f"{len(wrong)}: {wrong[:5]}"


def test_torchs_own_modules_in_two_dimensions(ranks: Ranks, shared: Daemon) -> None:
    """FSDP2 over tensor parallel as PyTorch makes it: StridedShard, rows that no rank has, and the optimizer's moments."""
    ranks.open("modules", RANKS)
    assert ranks.all("real_modules", 1) == ["committed ['R', 'S(0)', 'S(1)', '_S(0, 2)']"] * RANKS
    ranks.all("close")
    whole = torch.load(shared.socket + ".whole")
    into: dict[str, Any] = {"model": {}, "moments": {}}
    for name, tensor in whole.items():
        kind, _, rest = name.partition(".")
        into[kind][rest] = torch.zeros_like(tensor)
    with shared.open("modules", world_size=1) as checkpointer:
        assert checkpointer.restore(into) == 1
    for name, tensor in whole.items():
        kind, _, rest = name.partition(".")
        assert torch.equal(into[kind][rest], tensor), name


def test_torchs_own_flat_parameters(ranks: Ranks, shared: Daemon) -> None:
    ranks.open("fsdp1", RANKS)
    assert ranks.all("real_flat_parameter", 1) == ["committed"] * RANKS
    ranks.all("close")
    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    for kind in ("packed", "aligned"):
        into = {kind: {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}}
        with shared.open("fsdp1", world_size=1) as checkpointer:
            assert checkpointer.restore(into) == 1
        for name, tensor in model.named_parameters():
            assert torch.equal(into[kind][name], tensor), (kind, name)


def test_what_has_no_box_is_refused(ranks: Ranks, shared: Daemon) -> None:
    with shared.open("refused", world_size=1) as checkpointer:
        checkpointer.save(1, {"model": {"w": torch.ones(8, 2)}}).wait("committed", timeout=20)
    ranks.open("refused", RANKS)
    for answers in ranks.all("refused", 1):
        assert ["partial placement" in text for text in answers] == [True, True, False, False]
        assert all("'model.w' holds" in text and "redistribute" in text for text in answers[2:])
    ranks.all("close")


def tiling(generator: random.Random, shape: tuple[int, ...], count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """About ``count`` boxes (offsets, shape), cut at random again and again; some may be empty."""
    boxes = [((0,) * len(shape), shape)]
    for _ in range(count - 1):
        offsets, extent = boxes.pop(generator.randrange(len(boxes)))
        dimension = generator.randrange(len(shape)) if shape else None
        if dimension is None:
            boxes.append((offsets, extent))
            break
        at = generator.randint(0, extent[dimension])
        low, high, moved = list(extent), list(extent), list(offsets)
        low[dimension], high[dimension], moved[dimension] = at, extent[dimension] - at, offsets[dimension] + at
        boxes += [(offsets, tuple(low)), (tuple(moved), tuple(high))]
    return boxes


Made = tuple[Any, torch.Tensor]
"""A leaf, and what its local tensor must be."""


def random_layout(generator: random.Random, whole: dict[str, torch.Tensor], world: int, *, save: bool) -> list[dict[str, Made]]:
    """For each rank some leaves. Saved ones tile each tensor, as boxes or as ranges; wanted ones are any."""
    found: list[dict[str, Made]] = [{} for _ in range(world)]
    for name, tensor in whole.items():
        flat = tensor.reshape(-1)
        is_flat = generator.random() < 0.4
        space = (len(flat),) if is_flat else tuple(tensor.shape)
        boxes = tiling(generator, space, world)
        for rank, (offsets, shape) in zip(generator.sample(range(world), len(boxes)), boxes, strict=True):
            if not save and generator.random() < 0.3:
                continue
            if is_flat:
                value = flat[offsets[0] : offsets[0] + shape[0]].clone()
                leaf: Any = cairn.FlatShard(value if save else torch.zeros_like(value), tensor.shape, offsets[0])
            else:
                value = cut(tensor, offsets, shape)
                leaf = Part(value if save else torch.zeros_like(value), tuple(tensor.shape), offsets)
            found[rank][name] = leaf, value
        if not save and generator.random() < 0.3:
            found[generator.randrange(world)][name] = torch.zeros_like(tensor), tensor
    return found


def random_tensors(generator: random.Random) -> dict[str, torch.Tensor]:
    kinds = [torch.float32, torch.bfloat16, torch.uint8, torch.complex128, torch.int64]
    made = {}
    for number in range(6):
        shape = [generator.randint(1, 7) for _ in range(generator.randint(0, 4))]
        values = torch.tensor([generator.randint(0, 255) for _ in range(math.prod(shape))])
        made[f"t{number}"] = values.to(kinds[number % len(kinds)]).reshape(shape)
    return made


@pytest.mark.parametrize("seed", range(int(os.environ.get("CAIRN_LAYOUT_SEEDS", "12"))))
def test_random_layouts_restore_into_random_layouts(shared: Daemon, parts: None, seed: int) -> None:
    generator = random.Random(seed)
    run, whole, world = f"random-{seed}", random_tensors(generator), generator.randint(1, 5)
    saved = random_layout(generator, whole, world, save=True)
    with Job(shared, world, run=run, shared=True) as job:
        job.commit(1, lambda rank: {name: leaf for name, (leaf, _) in saved[rank].items()})
    for after in generator.sample(range(1, 6), 3):
        wanted = random_layout(generator, whole, after, save=False)
        with Job(shared, after, run=run, shared=True) as job:
            into = [{name: leaf for name, (leaf, _) in each.items()} for each in wanted]
            assert job.all(lambda checkpointer, into=into: checkpointer.restore(into[checkpointer.rank], names={})) == [1] * after  # type: ignore[misc]
        for rank, each in enumerate(wanted):
            for name, (leaf, value) in each.items():
                found = getattr(leaf, "_local_tensor", leaf)
                assert torch.equal(found, value), (
                    f"seed {seed}: {world} -> {after} ranks, rank {rank}, {name}: {found} is not {value}"
                )


def test_a_flat_buffer_is_whole_tensors_to_everyone_else(cluster: Cluster) -> None:
    """To stock readers too, which see each of them flattened."""
    import safetensors.torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    daemon = cluster.daemon(tiers=2)
    shapes = {"a.weight": (5, 3), "a.bias": (5,), "b.weight": (4, 3), "b.scale": ()}
    total = sum(math.prod(shape) for shape in shapes.values())  # 33, in two parts of 17: one element is padding
    buffers = [torch.arange(17.0) + 17 * rank for rank in range(2)]
    with Job(daemon, 2) as job:
        job.commit(1, lambda rank: cairn.flat_shards(buffers[rank], shapes, rank))
    flat = torch.cat(buffers)[:total]
    into = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with daemon.open(world_size=1) as checkpointer:
        assert checkpointer.restore(into) == 1
        assert torch.equal(torch.cat([tensor.reshape(-1) for tensor in into.values()]), flat)
        other = torch.full((35,), -1.0)
        assert checkpointer.restore(cairn.flat_shards(other, dict(reversed(shapes.items())))) == 1
        assert other[-2:].tolist() == [-1.0, -1.0]  # padding stays what it was
        assert torch.equal(other[:1], into["b.scale"].reshape(1))
        assert torch.equal(other[18:33], into["a.weight"].reshape(-1))
    (folder,) = daemon.step_folders()
    files = [safetensors.torch.load_file(folder / f"rank-0000{rank}.safetensors") for rank in range(2)]
    assert torch.equal(torch.cat([file["a.bias"] for file in files if "a.bias" in file]), into["a.bias"])
    assert [file["b.weight"].shape for file in files if "b.weight" in file] == [(12,)]
    seen = {name: torch.zeros(math.prod(shape)) for name, shape in shapes.items()}
    dcp.load(seen, storage_reader=HuggingFaceStorageReader(str(folder)))
    assert torch.equal(torch.cat(list(seen.values())), flat)


def test_a_tensor_of_boxes_and_ranges_is_nobodys(shared: Daemon, parts: None) -> None:
    def state(rank: int) -> dict[str, Any]:
        return {"w": cairn.FlatShard(torch.zeros(6), (4, 3), 0) if rank else Part(torch.zeros(2, 3), (4, 3), (2, 0))}

    with Job(shared, 2, run="mixed") as job:
        for save in job.save(1, state):
            assert "'w'" in reason(save)
            assert "flattened" in reason(save)


@pytest.mark.parametrize(
    ("tensor", "shape", "begin"),
    [
        (torch.zeros(2, 2), (4,), 0),
        (np.zeros(3), (4,), 0),
        (torch.zeros(3), (2, 2), 2),
        (torch.zeros(3), (2, 2), -1),
        (torch.zeros(0), (-1, -4), 0),
    ],
)
def test_a_range_that_cannot_be_is_refused(tensor: Any, shape: tuple[int, ...], begin: int) -> None:
    with pytest.raises(cairn.UnsupportedTensor, match=r"FlatShard|not within"):
        cairn.FlatShard(tensor, shape, begin)


def test_parts_of_a_flat_buffer_have_every_element_once() -> None:
    generator = random.Random(5)
    for _ in range(200):
        shapes = {f"t{number}": [generator.randint(0, 4) for _ in range(generator.randint(0, 3))] for number in range(5)}
        count, align = generator.randint(1, 5), generator.choice([1, 1, 4])
        whole = {name: torch.randint(1, 99, shape) for name, shape in shapes.items()}
        flat = torch.cat(
            [torch.cat([each.reshape(-1), torch.zeros(-each.numel() % align, dtype=torch.int64)]) for each in whole.values()]
        )
        size = max(1, -(-len(flat) // count))
        flat = torch.cat([flat, torch.zeros(size * count - len(flat), dtype=torch.int64)])
        parts = [cairn.flat_shards(flat[size * part : size * (part + 1)], shapes, part, align=align) for part in range(count)]
        for name, tensor in whole.items():
            held = [part[name] for part in parts]
            assert torch.equal(torch.cat([each.tensor for each in held]), tensor.reshape(-1))
            assert all(each.begin == sum(len(other) for other in held[:index]) for index, each in enumerate(held))


def test_what_a_rank_holds_of_a_dimension_is_what_torch_gives_it() -> None:
    """Against torch's own splitting of the row numbers, for any order of Shard and _StridedShard."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    generator = random.Random(2)
    several = 0
    for _ in range(300):
        mesh = [generator.randint(1, 4) for _ in range(2)]
        extent = generator.randint(1, 30)
        placements = [
            generator.choice([Replicate(), Shard(0), _StridedShard(0, split_factor=generator.randint(2, 4))]) for _ in mesh
        ]
        for coordinate in itertools.product(*map(range, mesh)):
            rows = torch.arange(extent)
            for size, at, how in zip(mesh, coordinate, placements, strict=True):
                if not isinstance(how, Replicate):
                    rows = how._split_tensor(rows, size, with_padding=False)[0][at]
            found = placement.runs(extent, 0, mesh, coordinate, placements)
            assert [row for begin, end in found for row in range(begin, end)] == rows.tolist()
            several += len(found) > 1
    assert several > 50
