"""One rank and a real daemon: what is saved comes back bit for bit, and nothing that changed after save() is in it."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch
from real_daemon import Cluster, Opener, trainer
from states import assert_same, emptied, every_dtype

import cairn

pytestmark = pytest.mark.daemon

MODES: dict[str, dict[str, Any]] = {
    "one tier": {"tiers": 1},
    "two tiers": {"tiers": 2},
    "memory descriptor": {"tiers": 1, "environment": {"CAIRN_FORCE_MEMORY_DESCRIPTOR": "1"}},
    "threads": {"tiers": 2, "io": "threads"},
    "buffered": {"tiers": 2, "direct": "off"},
}


def save_and_commit(checkpointer: cairn.Checkpointer, step: int, state: Any, **options: Any) -> cairn.Save:
    save = checkpointer.save(step, state, **options)
    save.wait("committed", timeout=60)
    return save


def nested() -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    weight = torch.nn.Parameter(torch.randn(16, 16))
    return {
        "dtypes": every_dtype(),
        "zero": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5),
        "strided": base[:, ::2],
        "transposed": base.t(),
        "conj": torch.tensor([1 + 2j, 3 - 1j]).conj(),
        "embed": weight,
        "head": weight,
        "numpy": {"a": np.arange(7, dtype=np.int16), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
        "list": [torch.ones(3), {"deep": [torch.zeros(2, dtype=torch.int8)]}, "text", 5],
        "plain": {"epoch": 3, "lr": 0.1, "name": "x", "none": None, "flag": True, "tuple": (1, (2.5, "y")), "bytes": b"\0\1"},
        "odd": {1, 2, 3},
        3: "int key",
        "dotted.name/with slash": torch.ones(2),
        "big": torch.randn(3, 1 << 20),
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_tree_comes_back(cluster: Cluster, mode: str) -> None:
    daemon = cluster.daemon(**MODES[mode])
    state = nested()
    with daemon.open() as checkpointer:
        save = save_and_commit(checkpointer, 12, state, metadata={"note": "hello"})
        for future in (save.staged, save.local, save.durable):
            assert future.result(1).step == 12
        assert (checkpointer.all_steps(), checkpointer.latest_step()) == ([12], 12)
    with daemon.open() as checkpointer:
        nothing: dict[Any, Any] = {}
        assert checkpointer.restore(nothing) == 12
        assert_same(
            {key: value for key, value in state.items() if key != "embed"}, {k: v for k, v in nothing.items() if k != "embed"}
        )
        assert nothing["embed"] is nothing["head"]
        again = emptied({key: value for key, value in state.items() if key not in ("embed", "head")})
        tied = torch.nn.Parameter(torch.zeros(16, 16))
        again |= {"embed": tied, "head": tied}
        assert checkpointer.restore(again, 12) == 12
        assert_same({**state, "embed": 0, "head": 0}, {**again, "embed": 0, "head": 0})
        assert again["head"] is tied
        assert torch.equal(tied, state["head"])


def test_restored_bytes_survive_the_daemon(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    state = nested()
    with daemon.open() as checkpointer:
        save_and_commit(checkpointer, 1, state)
    assert daemon.stop() == 0
    daemon.start()
    with daemon.open() as checkpointer:
        into = emptied(state)
        assert checkpointer.restore(into) == 1
        assert_same(state["dtypes"], into["dtypes"])
        assert_same(state["big"], into["big"])


@pytest.mark.parametrize("mode", ["one tier", "memory descriptor"])
def test_what_changes_after_save_is_not_in_it(cluster: Cluster, mode: str) -> None:
    """A BatchNorm buffer and an EMA change before the optimizer's next step; parameters and moments in it."""
    daemon = cluster.daemon(**MODES[mode])
    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.BatchNorm1d(512), torch.nn.Linear(512, 4096))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with daemon.open() as checkpointer:
        checkpointer.guard(optimizer)
        kept: dict[int, Any] = {}
        for step in range(1, 5):
            optimizer.zero_grad()
            model(torch.randn(8, 512)).square().mean().backward()
            optimizer.step()
            for name, parameter in model.named_parameters():
                ema[name].mul_(0.9).add_(parameter.detach(), alpha=0.1)
            state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "ema": ema, "step": step}
            kept[step] = {
                "model": {k: v.clone() for k, v in model.state_dict().items()},
                "ema": {k: v.clone() for k, v in ema.items()},
                "moments": [v["exp_avg"].clone() for v in optimizer.state.values()],
            }
            save = checkpointer.save(step, state)
            model(torch.randn(8, 512))  # changes the running statistics at once
            for tensor in ema.values():
                tensor.zero_().add_(step)
            if step < 4:
                continue
            optimizer.step()
            assert save.free
        checkpointer.wait_until_finished(timeout=60)
        checkpointer.check_for_errors()
        for name, tensor in ema.items():
            assert bool((tensor == 4).all()), name
    with daemon.open() as checkpointer:
        into: dict[str, Any] = {}
        assert checkpointer.restore(into) == 4
        assert_same(kept[4]["model"], dict(into["model"]))
        assert_same(kept[4]["ema"], into["ema"])
        assert_same(kept[4]["moments"], [into["optim"]["state"][index]["exp_avg"] for index in range(len(kept[4]["moments"]))])


def test_optimizer_state_that_moved_is_saved_from_where_it_is(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    parameter = torch.nn.Parameter(torch.randn(1 << 20))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(1 << 20)
    with daemon.open() as checkpointer:
        checkpointer.guard(optimizer)
        optimizer.step()
        save_and_commit(checkpointer, 1, {"optim": optimizer})
        moved = torch.randn(1 << 20)
        optimizer.state[parameter]["momentum_buffer"] = moved
        save_and_commit(checkpointer, 2, {"optim": optimizer})
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {"momentum_buffer": moved * 2}}})
        save_and_commit(checkpointer, 3, {"optim": optimizer})
    for step, expected in ((2, moved), (3, moved * 2)):
        into: dict[str, Any] = {}
        with daemon.open() as checkpointer:
            assert checkpointer.restore(into, step) == step
        assert torch.equal(into["optim"]["state"][0]["momentum_buffer"], expected)


def test_generators_go_on_where_they_were(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        save_and_commit(checkpointer, 1, {"rng": cairn.rng_state(), "raw": torch.get_rng_state()})
        expected = (random.random(), np.random.rand(3).tolist(), torch.rand(5).tolist())
        state: dict[str, Any] = {}
        checkpointer.restore(state)
    cairn.set_rng_state(state["rng"])
    assert (random.random(), np.random.rand(3).tolist(), torch.rand(5).tolist()) == expected


def test_levels_end_where_they_were_asked_to(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        for step, level in ((1, "staged"), (2, "local"), (3, "global"), (4, "committed")):
            save = checkpointer.save(step, {"a": torch.full((1000,), step)}, level=level)
            assert save.wait(timeout=60).level == level
            if level != "committed":
                with pytest.raises(cairn.LevelNotAsked):
                    save.wait("committed", timeout=5)
        # What is on the global tier of every rank is committed as well; only the save did not wait for it.
        checkpointer.wait_until_finished()
        assert checkpointer.all_steps() == [3, 4]


def test_the_same_step_can_be_saved_again(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        for value in (1.0, 2.0):
            save_and_commit(checkpointer, 5, {"a": torch.full((10,), value)})
        into = {"a": torch.zeros(10)}
        assert checkpointer.restore(into) == 5
        assert bool((into["a"] == 2).all())


def test_newest_means_saved_last(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        for step in (10, 20):
            save_and_commit(checkpointer, step, {"v": step})
    with daemon.open() as checkpointer:
        assert checkpointer.restore({}, 10) == 10
        save_and_commit(checkpointer, 15, {"v": 15})
        assert checkpointer.latest_step() == 15
    with daemon.open() as checkpointer:
        state: dict[str, Any] = {}
        assert checkpointer.restore(state) == 15
        assert state["v"] == 15


def test_retention_keeps_the_newest_by_count_and_period(cluster: Cluster) -> None:
    daemon = cluster.daemon(retention="{local: {keep: 2, keepPeriod: 4}}")
    with daemon.open() as checkpointer:
        for step in range(1, 9):
            save_and_commit(checkpointer, step, {"a": torch.ones(10)})
        deadline = time.monotonic() + 30
        while checkpointer.all_steps() != [4, 7, 8]:
            assert time.monotonic() < deadline, checkpointer.all_steps()
            time.sleep(0.1)
        checkpointer.delete(4)
        assert checkpointer.all_steps() == [7, 8]
        with pytest.raises(cairn.NoSuchStep):
            checkpointer.restore({}, 4)
        with pytest.raises(cairn.WireError):
            checkpointer.delete(8)


TRAINER = """
import os, sys, torch, cairn
torch.manual_seed(0)
model = torch.nn.Linear(256, 4096)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
ckpt = cairn.Checkpointer("run", socket=sys.argv[1])
ckpt.guard(optimizer)
state = {"model": model, "optim": optimizer, "rng": cairn.rng_state(), "step": 0}
print("restored", ckpt.restore(state), flush=True)
cairn.set_rng_state(state["rng"])
def digest():
    import hashlib
    h = hashlib.sha256()
    for v in model.state_dict().values(): h.update(v.numpy().tobytes())
    for s in optimizer.state.values():
        for v in s.values(): h.update(v.numpy().tobytes())
    h.update(torch.get_rng_state().numpy().tobytes())
    return h.hexdigest()
print("digest", state["step"], digest(), flush=True)
for step in range(state["step"] + 1, state["step"] + 1 + int(sys.argv[2])):
    optimizer.zero_grad()
    model(torch.randn(16, 256)).square().mean().backward()
    optimizer.step()
    save = ckpt.save(step, {"model": model, "optim": optimizer, "rng": cairn.rng_state(), "step": step})
    print("digest", step, digest(), flush=True)
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_trainer_comes_back_bit_exact(cluster: Cluster, mode: str) -> None:
    daemon = cluster.daemon(**MODES[mode])
    first = trainer(TRAINER, daemon.socket, "1000")
    digests: dict[int, str] = {}
    assert first.stdout is not None
    for line in first.stdout:
        words = line.split()
        if words[0] == "digest":
            digests[int(words[1])] = words[2]
            if int(words[1]) == 12:
                break
    first.send_signal(signal.SIGKILL)
    for line in first.stdout:
        words = line.split()
        if words[0] == "digest":
            digests[int(words[1])] = words[2]
    first.wait(10)
    second = trainer(TRAINER, daemon.socket, "0")
    output, _ = second.communicate("\n", timeout=60)
    lines = [line.split() for line in output.splitlines()]
    restored = int(lines[0][1])
    assert restored >= 10
    assert lines[1] == ["digest", str(restored), digests[restored]]
    assert second.returncode == 0
    assert daemon.alive()


def test_the_exit_hook_waits_until_staged(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    script = (
        "import sys, torch, cairn\n"
        "ckpt = cairn.Checkpointer('run', socket=sys.argv[1])\n"
        "ckpt.save(1, {'a': torch.ones(8 << 20)}, lazy=True)\n"
    )
    process = trainer(script, daemon.socket)
    process.communicate("", timeout=60)
    assert process.returncode == 0
    with daemon.open() as checkpointer:
        deadline = time.monotonic() + 30
        while checkpointer.all_steps() != [1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        into = {"a": torch.zeros(8 << 20)}
        assert checkpointer.restore(into) == 1
        assert bool((into["a"] == 1).all())


def test_a_data_loader_of_processes_does_not_disturb(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    data = torch.utils.data.TensorDataset(torch.arange(64.0))
    with daemon.open() as checkpointer:
        for step, (batch,) in enumerate(torch.utils.data.DataLoader(data, batch_size=8, num_workers=2), 1):
            checkpointer.save(step, {"batch": batch, "step": step})
        checkpointer.wait_until_finished(timeout=60)
        checkpointer.check_for_errors()
        assert checkpointer.latest_step() == 8


def test_a_state_larger_than_the_pool_goes_at_the_disks_speed(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="128MiB")
    state = {f"t{index}": torch.full((1 << 20,), float(index)) for index in range(75)}  # 300 MiB
    with daemon.open() as checkpointer:
        save_and_commit(checkpointer, 1, state)
        into = {name: torch.zeros(1 << 20) for name in state}
        assert checkpointer.restore(into) == 1
        assert_same(state, into)


def test_a_full_tier_fails_saves_and_training_goes_on(cluster: Cluster) -> None:
    daemon = cluster.daemon(reserve="900TiB")
    with daemon.open() as checkpointer:
        for step in range(1, 4):
            save = checkpointer.save(step, {"a": torch.ones(1 << 20)})
            with pytest.raises(cairn.CheckpointFailed):
                save.wait("committed", timeout=60)
        assert checkpointer.failures == 3
    assert daemon.alive()


def test_many_small_tensors_and_values(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    state = {f"t{index}": torch.full((256,), float(index)) for index in range(20_000)} | {"values": list(range(1000))}
    with daemon.open() as checkpointer:
        save_and_commit(checkpointer, 1, state)
        into = {name: torch.zeros(256) for name in state if name != "values"}
        assert checkpointer.restore(into) == 1
        assert_same(state, into)


def test_two_runs_and_two_checkpointers_do_not_mix(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    with daemon.open("one") as one, daemon.open("two") as two:
        save_and_commit(one, 1, {"v": "one"})
        save_and_commit(two, 2, {"v": "two"})
        states: list[dict[str, Any]] = [{}, {}]
        assert (one.restore(states[0]), two.restore(states[1])) == (1, 2)
        assert [state["v"] for state in states] == ["one", "two"]


def test_a_later_launch_ends_the_earlier_one(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    script = (
        "import sys, torch, cairn\n"
        "ckpt = cairn.Checkpointer('run', socket=sys.argv[1])\n"
        "ckpt.save(1, {'v': 1}).wait('committed', timeout=30)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "save = ckpt.save(2, {'v': 2})\n"
        "print(save.level, save.reason, flush=True)\n"
    )
    process = trainer(script, daemon.socket)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    # Another process may not take the rank while the first lives, unless its launch is a later one.
    late = cairn.Checkpointer("run", socket=daemon.socket, attempt="later")
    output, _ = process.communicate("\n", timeout=60)
    taken = late._link.session is None
    assert ("failed" in output) != taken, (output, late._link.down)
    late.close()


def test_a_restore_that_did_not_fit_may_be_asked_for_again(open_run: Opener) -> None:
    """What was wrong is the state that was given: it is no reason to go back to an older step, nor to find none."""
    checkpointer = open_run()
    for step in (1, 2):
        checkpointer.save(step, {"a": torch.full((4,), float(step))}).wait(timeout=20)
    for _ in range(2):
        with pytest.raises(cairn.Mismatch):
            checkpointer.restore({"a": torch.zeros(5)})
    fits = {"a": torch.zeros(4)}
    assert checkpointer.restore(fits) == 2
    assert fits["a"].tolist() == [2.0] * 4
