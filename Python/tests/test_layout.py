"""Dtypes, sources, what is copied when, and what is registered anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cairn
from cairn import dtypes, tensors
from cairn.guard import Guard
from cairn.layout import Layouts
from cairn.plan import rows


def layouts(*, world_size: int = 1, guard: Guard | None = None, **options: Any) -> Layouts:
    return Layouts(world_size=world_size, guard=guard or Guard(lambda: None), **options)


def shards(maker: Layouts, state: Any, lazy: Any = None) -> dict[str, dict[str, Any]]:
    return {shard["name"]: shard for shard in maker.content(state, lazy).layout.shards()}


def test_every_dtype_has_one_name_and_its_size() -> None:
    for name, size in dtypes.BYTES.items():
        dtype = dtypes.to_torch(name)
        assert dtypes.of_torch(dtype) == name
        assert torch.empty(1, dtype=dtype).element_size() == size
        array = dtypes.to_numpy(name)
        if array is not None:
            assert (dtypes.of_numpy(array), array.itemsize) == (name, size)
    assert dtypes.of_numpy(np.dtype([("a", "f4")])) is None
    assert dtypes.of_numpy(np.dtype(">f4")) == "F32"


def test_sources_are_where_the_tensors_are() -> None:
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    array = np.arange(4, dtype=np.int16)
    found = shards(layouts(), {"t": whole, "row": whole[1], "n": array, "zero": torch.zeros(0, 3), "scalar": torch.tensor(5)})
    assert found["t"]["source"]["memory"] == [{"address": whole.data_ptr(), "bytes": 48}]
    assert found["row"]["source"]["memory"] == [{"address": whole.data_ptr() + 16, "bytes": 16}]
    assert found["n"]["source"]["memory"] == [{"address": array.ctypes.data, "bytes": 8}]
    assert found["zero"]["source"]["memory"] == []
    assert found["zero"]["shape"] == (0, 3)
    assert found["scalar"]["shape"] == ()
    assert not any("private" in shard or "eager" in shard for shard in found.values())


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), torch.empty(2, dtype=torch.float4_e2m1fn_x2)],
    ids=["meta", "sparse", "float4"],
)
def test_what_cannot_be_saved_is_named(tensor: torch.Tensor) -> None:
    with pytest.raises(cairn.UnsupportedTensor, match=r"'model\.bad'"):
        layouts().content({"model": {"bad": tensor}}, None)


def test_an_unchanged_state_is_not_registered_anew() -> None:
    maker, state = layouts(), {"a": torch.zeros(4), "n": np.zeros(3), "v": 1}
    first = maker.content(state, None).layout
    state["v"] = 2
    state["a"].add_(1)
    assert maker.content(state, None).layout is first


def changed(state: dict[str, Any], how: str) -> None:
    if how == "address":
        state["a"] = torch.zeros(4, 4, 1 << 17)
    elif how == "data":
        state["a"].data = torch.zeros(4, 4, 1 << 17)
    elif how == "shape":
        state["a"] = state["a"].view(16, 1 << 17)
    elif how == "stride":
        state["a"] = state["a"].transpose(0, 1)
    elif how == "dtype":
        state["a"] = state["a"].view(torch.int32)
    elif how == "key":
        state["b"] = state.pop("a")
    elif how == "more":
        state["more"] = torch.zeros(1)
    elif how == "numpy":
        state["n"] = np.zeros(1 << 18)
    elif how == "less":
        del state["n"]


@pytest.mark.parametrize("how", ["address", "data", "shape", "stride", "dtype", "key", "more", "numpy", "less"])
def test_any_difference_is_registered_anew(how: str) -> None:
    maker, state = layouts(), {"a": torch.zeros(4, 4, 1 << 17), "n": np.zeros(1 << 18)}
    kept = list(state.values())
    first = maker.content(state, None).layout
    changed(state, how)
    second = maker.content(state, None).layout
    assert second is not first
    assert kept


def test_tensors_that_are_not_contiguous_are_copied_at_each_save() -> None:
    maker, base = layouts(), torch.arange(6.0).reshape(2, 3)
    state = {"t": base.t(), "conj": torch.tensor([1 + 2j]).conj(), "n": np.arange(6, dtype=">i4").reshape(2, 3).T}
    first = maker.content(state, True)
    leaves = {leaf.name: leaf for leaf in first.layout.leaves}
    assert all(leaf.eager for leaf in leaves.values())
    assert torch.equal(leaves["t"].scratch, base.t())
    assert leaves["conj"].scratch[0] == 1 - 2j
    assert (leaves["n"].scratch == state["n"]).all()
    base.add_(10)
    second = maker.content(state, True)
    assert second.layout is first.layout
    assert torch.equal(leaves["t"].scratch, base.t())


def test_small_tensors_that_are_new_each_time_settle_in_a_kept_buffer() -> None:
    maker = layouts()
    kept = []
    registered = set()
    for number in range(5):
        kept.append({"rng": torch.full((100,), number), "big": torch.zeros(8)})
        kept[-1]["big"] = kept[0]["big"]
        layout = maker.content(kept[-1], None).layout
        registered.add(id(layout))
        leaf = layout.leaves[0]
        value = leaf.scratch if leaf.scratch is not None else leaf.tensor
        assert torch.equal(value, torch.full((100,), number))
    assert len(registered) == 2


def test_tied_tensors_are_stored_once() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 3))
    maker = layouts()
    content = maker.content({"embed": weight, "head": weight, "view": weight.detach(), "row": weight[0]}, None)
    assert [shard["name"] for shard in content.layout.shards()] == ["embed", "row"]
    assert b'"name":"embed"' in content.layout.structure
    assert content.layout.structure.count(b'"name":"embed"') == 3


def test_plain_tensors_of_a_larger_world_are_private_or_replicated() -> None:
    state = {"a": torch.zeros(1), "b": torch.zeros(1)}
    assert all(shard["private"] for shard in shards(layouts(world_size=2), state).values())
    found = [shards(layouts(world_size=2, rank=rank, replicated=["a"]), state) for rank in range(2)]
    assert sorted(shard["name"] for each in found for shard in each.values()) == ["a", "b", "b"]
    assert [each["b"]["private"] for each in found] == [True, True]
    (written,) = [each["a"] for each in found if "a" in each]
    assert not {"private", "replica", "globalShape"} & set(written)


def test_lazy_is_only_what_is_owned_or_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    guard = Guard(lambda: None)
    guard.add(optimizer)
    ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "ema": ema}
    found = shards(layouts(guard=guard), state)
    lazy = {name for name, shard in found.items() if shard.get("eager") is False}
    expected = {f"model.{name}" for name, _ in model.named_parameters()} | {
        name for name in found if name.startswith("optim.state.")
    }
    assert lazy == expected
    named = shards(layouts(), state, ["ema.*", "model.1.running_mean"])
    assert {name for name, shard in named.items() if shard.get("eager") is False} == {f"ema.{n}" for n in ema} | {
        "model.1.running_mean"
    }
    guard.remove()


def test_state_that_moved_is_found_and_still_guarded() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1 << 18))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(1 << 18)
    optimizer.step()
    guard = Guard(lambda: None)
    guard.add(optimizer)
    maker = layouts(guard=guard)
    before = shards(maker, optimizer.state_dict())["state.0.momentum_buffer"]
    moved = optimizer.state[parameter]["momentum_buffer"].clone()
    optimizer.state[parameter]["momentum_buffer"] = moved
    after = shards(maker, optimizer.state_dict())["state.0.momentum_buffer"]
    assert after["source"]["memory"][0]["address"] == moved.data_ptr() != before["source"]["memory"][0]["address"]
    assert after["eager"] is False
    guard.remove()


def test_ranges_of_a_guarded_flat_parameter_are_lazy_and_watched() -> None:
    parameter = torch.nn.Parameter(torch.zeros(10))
    guard = Guard(lambda: None)
    guard.add(torch.optim.SGD([parameter], lr=0.1))
    maker = layouts(guard=guard)
    shapes = {"a": (2, 3), "b": (5,), "c": (2, 2)}

    def state(part: int = 0) -> Any:
        return cairn.flat_shards(parameter.detach(), shapes, part)

    content = maker.content(state(), None)
    found = {shard["name"]: shard for shard in content.layout.shards()}
    assert [(shard["shape"], shard.get("globalShape"), shard.get("offsets")) for shard in found.values()] == [
        ((6,), (2, 3), (0,)),
        ((4,), (5,), (0,)),
    ]
    assert all(shard["eager"] is False and not shard.get("private") for shard in found.values())
    assert [shard["source"]["memory"][0]["address"] - parameter.data_ptr() for shard in found.values()] == [0, 24]
    assert maker.content(state(), None).layout is content.layout  # other objects of the same memory
    assert content.lazy is not None
    assert content.lazy.changed() is None
    with torch.no_grad():
        parameter.add_(1)
    assert content.lazy.changed() == "a"
    moved = maker.content(state(part=1), None).layout
    assert [(leaf.name, leaf.offsets, leaf.bytes) for leaf in moved.stored] == [("b", (4,), 4), ("c", (0,), 16)]
    guard.remove()


def test_boxes_are_cut_in_row_major_order() -> None:
    for shape, limit in (((7, 3, 5), 40), ((1, 1, 9), 16), ((3, 100), 48), ((1000,), 64), ((2, 2), 1000)):
        array = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        joined = []
        for offsets, part, size in rows(shape, (0,) * len(shape), 8, limit):
            piece = array[tuple(slice(o, o + n) for o, n in zip(offsets, part, strict=True))]
            assert piece.nbytes == size <= limit
            joined.append(piece.ravel())
        assert (np.concatenate(joined) == array.ravel()).all()


def test_comparing_many_tensors_is_cheap() -> None:
    import time

    maker = layouts()
    state = {f"layer.{number}": torch.zeros(1) for number in range(20_000)}
    maker.content(state, None)
    best = 1.0
    for _ in range(5):
        begin = time.perf_counter()
        maker.content(state, None)
        best = min(best, time.perf_counter() - begin)
    assert best < 0.2, f"{best * 1000:.1f} ms for 20,000 tensors"


def test_an_array_of_another_byte_order_is_stored_as_ours() -> None:
    leaf = tensors.describe("n", np.arange(3, dtype=">u2"))
    tensors.refresh(leaf, leaf.tensor)
    assert leaf.scratch.tobytes() == np.arange(3, dtype="=u2").tobytes()
