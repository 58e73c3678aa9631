"""A part of a state, under other names, in other dtypes, with keys that are missing or left over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from in_process import Job
from layouts import Part
from real_daemon import Cluster, Daemon

import cairn

pytestmark = pytest.mark.daemon


def test_pipeline_stages_with_names_of_their_own(shared: Daemon) -> None:
    """Each stage counts its layers from 0: as private tensors that is the whole of what the step knows of them."""

    def stage(rank: int, count: int, value: float | None = None) -> dict[str, Any]:
        layers = range(rank * count, (rank + 1) * count)
        return {
            "layers": {str(index): torch.full((3,), float(layer) if value is None else value) for index, layer in enumerate(layers)}
        }

    with Job(shared, 2, run="stages", shared=True) as job:
        job.commit(1, lambda rank: stage(rank, 4))

    def saved(rank: int, count: int) -> Any:
        def named(name: str) -> str:
            layer = rank * count + int(name.removeprefix("layers."))
            return f"rank-{layer // 4:05}/layers.{layer % 4}"

        return named

    for world in (1, 2, 4, 8):
        count = 8 // world
        into = [stage(rank, count, -1.0) for rank in range(world)]
        with Job(shared, world, run="stages", shared=True) as job:
            job.all(
                lambda checkpointer, into=into, count=count: checkpointer.restore(  # type: ignore[misc]
                    into[checkpointer.rank], names=saved(checkpointer.rank, count), objects="skip"
                )
            )
            assert all(checkpointer.last_restore.skipped == [] for checkpointer in job.ranks)  # type: ignore[union-attr]
        for rank in range(world):
            for name, tensor in stage(rank, count)["layers"].items():
                assert torch.equal(into[rank]["layers"][name], tensor), (world, rank, name)


def test_patterns_of_names(shared: Daemon) -> None:
    with shared.open("patterns", world_size=1) as checkpointer:
        state = {"model": {"layers": {"0": {"mlp": torch.arange(3.0)}, "1": {"mlp": torch.arange(3.0) + 3}}, "head": torch.ones(2)}}
        checkpointer.save(1, state).wait("committed", timeout=20)
        into = {
            "decoder": {"1": torch.zeros(3), "0": torch.zeros(3)},
            "experts": [torch.zeros(3), torch.zeros(3)],
            "head": torch.zeros(2),
        }
        names = {"decoder.*": "model.layers.*.mlp", "experts.*": "model.layers.1.mlp", "head": "model.head"}
        assert checkpointer.restore(into, names=names) == 1
        assert torch.equal(into["decoder"]["1"], torch.arange(3.0) + 3)  # type: ignore[call-overload]
        assert torch.equal(into["decoder"]["0"], torch.arange(3.0))  # type: ignore[call-overload]
        assert all(torch.equal(each, torch.arange(3.0) + 3) for each in into["experts"])
        assert torch.equal(into["head"], torch.ones(2))  # type: ignore[arg-type]
        assert set(into) == {"decoder", "experts", "head"}  # nothing was added
        kept = {"head": torch.full((2,), 5.0), "model": {"head": torch.zeros(2)}}
        assert checkpointer.restore(kept, names=lambda name: None if name == "head" else name) == 1
        assert kept["head"].tolist() == [5.0, 5.0]  # type: ignore[attr-defined]
        with pytest.raises(cairn.Mismatch, match=r"'head' was not saved as 'tail'") as caught:
            checkpointer.restore({"head": torch.zeros(2)}, names={"head": "tail"})
        assert caught.value.missing == ["head"]
        for wrong in ({"a": "b*"}, {"a*": "b**"}):
            with pytest.raises(ValueError, match=r"fewer \*"):
                checkpointer.restore({}, names=wrong)
        with pytest.raises(TypeError, match="only is a list"):
            checkpointer.restore({}, only="model.*")  # type: ignore[arg-type]


def test_only_a_part_of_the_state(shared: Daemon) -> None:
    def state(value: float) -> dict[str, Any]:
        experts = {str(number): {"w": torch.full((4,), value + number)} for number in range(3)}
        return {"model": {"experts": experts, "version": value}, "optim": {"m": torch.full((2,), value)}, "epoch": value}

    def checked(into: dict[str, Any], expert: int) -> None:
        for number in range(3):
            assert into["model"]["experts"][str(number)]["w"][0] == (1.0 + number if number == expert else -5.0 + number)
        assert into["optim"]["m"][0] == -5.0
        assert (into["epoch"], into["model"]["version"]) == (-5.0, -5.0)

    with Job(shared, 2, run="only", replicated=True) as job:
        job.commit(1, lambda rank: state(1.0))
    for world in (2, 1):  # by this rank's own tree, and by names
        with Job(shared, world, run="only", replicated=True) as job:
            into = state(-5.0)
            job.all(lambda checkpointer, into=into: checkpointer.restore(into, only=["model.experts.1.*"]))  # type: ignore[misc]
            checked(into, 1)
            told = job.ranks[0].last_restore
            assert told is not None
            assert (told.missing, told.unexpected) == ([], [])
            assert told.bytes < 16 + 4096  # the expert, and trees
            bare: dict[str, Any] = {"model": {"experts": {"2": {"w": torch.zeros(4)}}}}
            if world == 2:
                job.all(lambda checkpointer, bare=bare: checkpointer.restore(bare, only=["model.experts.2.*", "epoch"]))  # type: ignore[misc]
                assert bare["epoch"] == 1.0
                assert set(bare) == {"model", "epoch"}
                assert set(bare["model"]["experts"]) == {"2"}
                fresh: dict[str, Any] = {}
                job.all(lambda checkpointer, fresh=fresh: checkpointer.restore(fresh, only=["model.experts.0.w"]))  # type: ignore[misc]
                assert list(fresh) == ["model"]
                assert fresh["model"]["experts"]["0"]["w"].tolist() == [1.0] * 4


def test_what_is_missing_and_what_is_left_over(shared: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    with Job(shared, 2, run="keys", replicated=True, shared=True) as job:
        job.commit(
            1, lambda rank: {"a": torch.ones(3), "b": torch.ones(2), **{f"more.{number}": torch.ones(1) for number in range(9)}}
        )
    into = {"a": torch.zeros(3), "b": torch.zeros(4), **{f"new.{number:02}": torch.zeros(1) for number in range(12)}}
    with shared.open("keys", world_size=1) as checkpointer:
        with pytest.raises(cairn.Mismatch) as caught:
            checkpointer.restore(into)
        assert caught.value.missing == [f"new.{number:02}" for number in range(12)]
        assert caught.value.different == ["tensor 'b' is [4], but [2] was saved"]
        assert str(caught.value).count("was not saved") == 4
        assert "and 8 more" in str(caught.value)
    with shared.open("keys", world_size=1) as checkpointer:  # what an attempt could not restore it does not try again
        assert checkpointer.restore(into, strict=False) == 1
        told = checkpointer.last_restore
    assert told is not None
    assert (told.missing, told.different) == (caught.value.missing, caught.value.different)
    assert sorted(told.unexpected) == sorted(f"more.{number}" for number in range(9))
    assert into["a"].tolist() == [1.0] * 3
    assert "9 tensors were saved and are not in the state" in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 600


CASTS = [
    (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float64), (torch.float64, torch.float32),
    (torch.float8_e4m3fn, torch.float32), (torch.complex128, torch.complex64),
]  # fmt: skip


def test_numbers_of_another_precision(shared: Daemon, parts: None) -> None:
    """Each way, into whole tensors, parts, ranges and tensors that are not contiguous: as torch rounds them."""
    whole = {str(number): torch.randn(70, 30, dtype=torch.float64).to(before) for number, (before, _) in enumerate(CASTS)}
    with shared.open("cast", world_size=1) as checkpointer:
        checkpointer.save(1, whole).wait("committed", timeout=20)
        for make in (
            lambda shape, dtype: torch.zeros(shape, dtype=dtype),
            lambda shape, dtype: torch.zeros(shape[::-1], dtype=dtype).t(),
            lambda shape, dtype: Part(torch.zeros((20, 11), dtype=dtype), shape, (13, 7)),
            lambda shape, dtype: cairn.FlatShard(torch.zeros(1000, dtype=dtype), shape, 99),
        ):
            into = {str(number): make((70, 30), after) for number, (_, after) in enumerate(CASTS)}
            assert checkpointer.restore(into, cast=True) == 1
            for name, leaf in into.items():
                expected = whole[name].to(layouts.local(leaf).dtype)
                if isinstance(leaf, Part):
                    expected = expected[13:33, 7:18]
                elif isinstance(leaf, cairn.FlatShard):
                    expected = expected.reshape(-1)[99:1099]
                assert torch.equal(layouts.local(leaf), expected), name
        arrays = {"0": np.zeros((70, 30), dtype=np.float64), "3": np.zeros((70, 30), dtype=np.float16)}
        assert checkpointer.restore(arrays, names={}, cast=True) == 1
        assert (arrays["0"] == whole["0"].double().numpy()).all()
        assert (arrays["3"] == whole["3"].numpy().astype(np.float16)).all()
        both = {"low": torch.zeros(70, 30, dtype=torch.bfloat16), "high": torch.zeros(70, 30)}
        assert checkpointer.restore(both, names={"*": "0"}, cast=True) == 1
        assert torch.equal(both["high"], whole["0"])
        assert torch.equal(both["low"], whole["0"].bfloat16())
        with pytest.raises(cairn.Mismatch, match="is I32"):
            checkpointer.restore({"0": torch.zeros(70, 30, dtype=torch.int32)}, names={}, cast=True)
    with shared.open("cast", world_size=1) as checkpointer, pytest.raises(cairn.Mismatch, match="is BF16, but F32 was saved"):
        checkpointer.restore(both, names={"*": "0"})


def test_a_cast_needs_no_second_copy(cluster: Cluster) -> None:
    """While 96 MiB are converted, the memory that the process has for itself (without the leases) grows by less than a tenth of it."""
    daemon = cluster.daemon(pool="384MiB")
    into = {str(number): torch.ones(1 << 22, dtype=torch.bfloat16) for number in range(6)}
    with daemon.open() as checkpointer:
        checkpointer.save(1, {name: torch.ones(1 << 22) for name in into}).wait("committed", timeout=30)
        checkpointer.restore({}, only=["0"])
        before, seen, over = own_memory(), [0], threading.Event()

        def watch() -> None:
            while not over.wait(0.001):
                seen.append(own_memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert checkpointer.restore(into, cast=True) == 1
        seen.append(own_memory())
        over.set()
        watcher.join(10)
    assert len(seen) > 10
    assert max(seen) - before < 9 << 20


def own_memory() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def test_an_optimizer_in_another_world_gets_its_values(shared: Daemon) -> None:
    """Plain values inside objects that restore themselves: the learning rate of a run that goes on with fewer ranks."""

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        return model, optimizer, schedule

    model, optimizer, schedule = made()
    for _ in range(3):
        optimizer.step()
        schedule.step()
    with Job(shared, 2, run="optimizer", replicated=True, shared=True) as job:
        job.commit(1, lambda rank: {"model": model, "optim": optimizer, "schedule": schedule})
    after = made()
    with shared.open("optimizer", world_size=1, shared=True) as checkpointer:
        assert checkpointer.restore(dict(zip(("model", "optim", "schedule"), after, strict=True))) == 1
    assert after[1].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.0625
    assert after[2].last_epoch == 3
    for old, new in zip(model.parameters(), after[0].parameters(), strict=True):
        assert torch.equal(old, new)
        assert torch.equal(optimizer.state[old]["exp_avg"], after[1].state[new]["exp_avg"])


def test_tied_weights_of_a_later_stage(shared: Daemon) -> None:
    """Stored once, under the first name; which that is, only the stage's own tree tells."""
    tied = torch.arange(6.0)

    def state(rank: int) -> dict[str, Any]:
        return {"last": {"a": tied, "b": tied}} if rank else {"first": torch.ones(2)}

    with Job(shared, 2, run="tied", each=lambda rank: {"replicated": {"*": [rank]}}, shared=True) as job:
        job.commit(1, state)
    for world in (1, 2):
        into = {"last": {"b": torch.zeros(6)}, "first": torch.zeros(2)}
        with Job(shared, world, run="tied", shared=True) as job:
            job.all(lambda checkpointer, into=into: checkpointer.restore(into, names={}))  # type: ignore[misc]
        assert torch.equal(into["last"]["b"], tied)  # type: ignore[call-overload]


def test_ranks_of_a_pattern_must_have_this_one(shared: Daemon) -> None:
    for ranks in ([1], [0, 2], ["0"]):
        with pytest.raises(ValueError, match="rank 0 among them"):
            shared.open("bad", rank=0, world_size=2, replicated={"*": ranks})
