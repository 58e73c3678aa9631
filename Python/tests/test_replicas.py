"""Tensors that are equal on several ranks: each is written once, by ranks that share the work, and every rank gets it back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from in_process import Job, reason, written
from real_daemon import Cluster, Daemon

import cairn
from cairn import launch
from cairn.guard import Guard
from cairn.layout import Layouts
from cairn.loader import Loader
from cairn.replicas import owners


def test_the_bytes_are_spread_evenly() -> None:
    items = [
        (f"layer.{number}.{kind}", size, tuple(range(8))) for number in range(24) for kind, size in (("w", 4_000_000), ("b", 2_000))
    ]
    found = owners([*items, ("embed", 40_000_000, tuple(range(8)))])
    loads = [sum(size for name, size, _ in [*items, ("embed", 40_000_000, ())] if found[name] == rank) for rank in range(8)]
    assert set(found) == {name for name, _, _ in items} | {"embed"}
    assert sorted(loads)[-1] == loads[found["embed"]]
    others = [loads[rank] for rank in range(8) if rank != found["embed"]]
    assert max(others) - min(others) <= 4_000_000  # one tensor


def test_the_order_in_which_they_come_is_nothing() -> None:
    items = [("a", 5, (0, 1, 2)), ("b", 5, (0, 1, 2)), ("c", 9, (0, 1, 2)), ("d", 5, (0, 2)), ("e", 1, (0, 2))]
    first = owners(items)
    assert all(owners(order) == first for order in itertools.permutations(items))
    assert all(first[name] in group for name, _, group in items)


def test_single_tensors_of_many_names_do_not_all_go_to_rank_0() -> None:
    assert {owners([(f"run{number}", 8, (0, 1, 2, 3))])[f"run{number}"] for number in range(50)} == {0, 1, 2, 3}


def test_a_smaller_group_counts_what_the_larger_ones_gave_its_ranks() -> None:
    """As data-parallel copies of a sharded tensor beside tensors that all ranks have."""
    found = owners([("norm", 100, (0, 1, 2, 3)), ("rows", 60, (0, 2)), ("rows of 1 and 3", 60, (1, 3))])
    for name, group in (("rows", (0, 2)), ("rows of 1 and 3", (1, 3))):
        assert found[name] in group
        assert found[name] != found["norm"]


def both(state: Any, **options: Any) -> list[Any]:
    return [Layouts(world_size=2, guard=Guard(lambda: None), rank=rank, **options).content(state, None).layout for rank in range(2)]


def test_tied_and_strided_replicas_are_stored_once() -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    state = {"embed": weight, "head": weight, "t": weight.t(), "n": np.arange(6).reshape(2, 3).T, "zero": torch.zeros(0, 2)}
    layouts = both(state, replicated=True, node=range(2))
    assert sorted(leaf.name for layout in layouts for leaf in layout.stored) == ["embed", "n", "t", "zero"]
    assert layouts[0].structure == layouts[1].structure
    assert layouts[0].agreed == layouts[1].agreed
    for layout in layouts:  # what another rank writes is copied by nobody
        assert {layout.leaves[index].name for index in layout.scratched} <= {leaf.name for leaf in layout.stored}


def test_a_private_tensor_is_no_alias_of_a_replicated_one() -> None:
    weight = torch.zeros(4)
    for layout in both({"own": weight, "all": weight}, replicated=["all"]):
        assert b'"name":"all"' in layout.structure
        assert b'"name":"own"' in layout.structure


def test_replicas_that_are_new_each_time_settle() -> None:
    """As a state_dict of clones: small ones must not make a new layout of each save, on whichever rank."""
    for rank in range(2):
        maker = Layouts(world_size=2, guard=Guard(lambda: None), rank=rank, replicated=True)
        kept, seen = [], set()
        for number in range(5):
            kept.append({"a": torch.full((10,), number), "b": torch.full((20,), number)})
            layout = maker.content(kept[-1], None).layout
            seen.add(id(layout))
            for leaf in layout.stored:
                assert torch.equal(leaf.tensor if leaf.scratch is None else leaf.scratch, kept[-1][leaf.name])
        assert len(seen) == 2


def test_a_node_keeps_one_copy_of_what_others_write() -> None:
    """8 ranks on 4 nodes: each node's two share the work of keeping what the six others own."""
    state = {f"w{number}": torch.zeros(1000) for number in range(64)}
    layouts = [
        Layouts(world_size=8, guard=Guard(lambda: None), rank=rank, replicated=True, node=launch.node(rank, rank % 2, 2, 8))
        .content(state, None)
        .layout
        for rank in range(8)
    ]
    assert sorted(leaf.name for layout in layouts for leaf in layout.stored) == sorted(state)
    for node in range(4):
        held = [leaf.name for layout in layouts[2 * node : 2 * node + 2] for leaf in layout.stored + layout.copied]
        assert sorted(held) == sorted(state)
    assert max(len(layout.copied) for layout in layouts) == 24
    assert not any(b'"owner"' in layout.structure for layout in layouts)  # all of it is near
    alone = Layouts(world_size=8, guard=Guard(lambda: None), rank=3, replicated=True).content(state, None).layout
    assert (len(alone.copied), alone.structure.count(b'"owner"')) == (0, 56)


def test_the_ranks_of_a_node_follow_one_another() -> None:
    assert launch.node(5, 1, 4, 8) == range(4, 8)
    assert launch.node(0, None, 4, 8) == launch.node(0, 0, None, 8) == launch.node(0, 3, 4, 8) == range(0)


MEGABYTES = 100


def big_state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    state = {f"layer.{number}": torch.randn(1 << 18, 5, generator=generator) for number in range(MEGABYTES // 5)}
    return {"model": state, "epoch": 3}


@pytest.mark.daemon
def test_a_shared_state_costs_its_size_once(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, pool="512MiB")
    state = big_state()
    with Job(daemon, 2, replicated=True) as job:
        job.commit(1, lambda rank: state)
    (folder,) = daemon.step_folders()
    sizes = written(folder)
    total = MEGABYTES << 20
    assert total <= sum(sizes) < 1.01 * total
    assert max(sizes) < 0.56 * total
    with Job(daemon, 2, replicated=True) as job:
        into = [
            {"model": {name: torch.zeros_like(tensor) for name, tensor in state["model"].items()}, "epoch": 0} for _ in range(2)
        ]
        assert job.all(lambda checkpointer: checkpointer.restore(into[checkpointer.rank])) == [1, 1]
    for each in into:
        assert each["epoch"] == 3
        assert all(torch.equal(each["model"][name], tensor) for name, tensor in state["model"].items())


@pytest.mark.daemon
def test_a_node_restores_replicas_from_what_it_has_itself(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [cluster.daemon(tiers=2) for _ in range(2)]
    state = {f"w{number}": torch.full((1 << 16,), float(number)) for number in range(8)}
    tiers: set[str] = set()
    load = Loader.load

    def noted(loader: Loader, targets: list[Any]) -> None:
        load(loader, targets)
        tiers.update(loader.tiers)

    monkeypatch.setattr(Loader, "load", noted)
    with Job(nodes, 2, replicated=True) as job:
        job.commit(1, lambda rank: state, lazy=True)
    (folder,) = nodes[0].step_folders()
    assert sum(written(folder)) < 1.1 * sum(tensor.nbytes for tensor in state.values())  # once on the global tier
    for restart in (False, True):
        if restart:
            for node in nodes:
                node.stop()
                node.start()
        tiers.clear()
        into = [{name: torch.zeros_like(tensor) for name, tensor in state.items()} for _ in range(2)]
        with Job(nodes, 2, replicated=True) as job:
            assert job.all(lambda checkpointer, into=into: checkpointer.restore(into[checkpointer.rank])) == [1, 1]  # type: ignore[misc]
        assert all(torch.equal(each[name], tensor) for each in into for name, tensor in state.items())
        assert tiers == {"local" if restart else "memory"}


@pytest.mark.daemon
def test_replicas_are_restored_by_any_number_of_ranks(shared: Daemon) -> None:
    state = {f"w{number}": torch.full((100, number + 1), float(number)) for number in range(7)}
    with Job(shared, 3, run="any-number", replicated=True) as job:
        job.commit(1, lambda rank: state)
    for world in (1, 2):
        into = [{name: torch.zeros_like(tensor) for name, tensor in state.items()} for _ in range(world)]
        with Job(shared, world, run="any-number", replicated=True) as job:
            assert job.all(lambda checkpointer, into=into: checkpointer.restore(into[checkpointer.rank])) == [1] * world  # type: ignore[misc]
        assert all(torch.equal(each[name], tensor) for each in into for name, tensor in state.items())


@pytest.mark.daemon
def test_copies_that_differ_are_found_where_asked_for(shared: Daemon) -> None:
    def state(rank: int) -> dict[str, Any]:
        return {"same": torch.ones(1000).t(), "drifted": torch.full((8, 8), float(rank)).t()}

    with Job(shared, 2, run="checked", replicated=True, check_replicas=True) as job:
        saves = job.save(1, state)
        for save in saves:
            assert "drifted" in reason(save)
            assert "ranks 0 and 1" in reason(save)
        job.commit(2, lambda rank: state(0))
    with Job(shared, 2, run="unchecked", replicated=True) as job:
        job.commit(1, state)


@pytest.mark.daemon
def test_ranks_that_disagree_on_what_is_shared_commit_nothing(shared: Daemon) -> None:
    """Else a tensor that each rank leaves to the other would be in nobody's file."""
    with Job(shared, 2, run="disagree", replicated=True) as job:
        saves = job.save(1, lambda rank: {f"w{number}": torch.ones(10) for number in range(5 + rank)})
        for save in saves:
            assert "cairn.replicas" in reason(save)


@pytest.fixture(scope="module")
def one_rank_mesh() -> Iterator[Any]:
    """A DTensor's mesh that holds this process only, as each rank of a job might make by mistake."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.daemon
def test_equal_boxes_that_nobody_declared_are_named(shared: Daemon, one_rank_mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    tensor = distribute_tensor(torch.ones(6, 2), one_rank_mesh, [Shard(0)])
    with Job(shared, 2, run="undeclared") as job:
        for save in job.save(1, lambda rank: {"model": {"rows": tensor}}):
            why = reason(save)
            assert "'model.rows'" in why
            assert "ranks [0, 1]" in why
        with pytest.raises(cairn.CheckpointFailed, match=r"model\.rows"):
            job.ranks[1].check_for_errors()


class Placement:
    def __init__(self, replicated: bool) -> None:
        self._replicated = replicated

    def is_partial(self) -> bool:
        return False

    def is_replicate(self) -> bool:
        return self._replicated


class Mesh:
    def __init__(self, ranks: torch.Tensor, here: list[int]) -> None:
        self.mesh = ranks
        self._here = here

    def get_coordinate(self) -> list[int]:
        return self._here


def test_the_group_of_a_distributed_tensor_is_its_mesh_along_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from cairn import placement, tensors

    monkeypatch.setattr(placement, "box_of", lambda tensor: ((8, 2), (4, 0), (4, 2)))
    ranks = torch.tensor([[0, 1], [2, 3], [4, 5]])  # 3 copies of 2 shards
    for dimensions, here, group in (
        ((True, False), [1, 1], (1, 3, 5)),
        ((False, True), [2, 0], (4, 5)),
        ((True, True), [0, 0], (0, 1, 2, 3, 4, 5)),
        ((False, False), [0, 0], None),
    ):
        leaf = tensors.Leaf("w", "torch", "F32", (4, 2), 32, 1, None)
        tensor = SimpleNamespace(placements=[Placement(each) for each in dimensions], device_mesh=Mesh(ranks, here))
        placement.place(leaf, tensor)
        assert leaf.group == group
        assert (leaf.global_shape, leaf.offsets) == ((8, 2), (4, 0))
