"""Reading what a job commits without being a rank of it."""

from __future__ import annotations

import secrets

import pytest
import torch
from in_process import Job
from real_daemon import Daemon

import cairn
from cairn.session import Session, Who
from cairn.wire import CHECKPOINT, OPERATIONS, Connection

pytestmark = pytest.mark.daemon


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


def test_a_live_jobs_steps_are_loaded_beside_it(shared: Daemon, run: str) -> None:
    with shared.open(run) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": torch.full((3000,), float(step)), "v": step}).wait(timeout=30)
        into = {"w": torch.zeros(3000), "v": 0}
        restored = cairn.load(run, into, socket=shared.socket)
        assert (restored.step, into["v"], bool((into["w"] == 2).all())) == (2, 2, True)
        assert cairn.load(run, into, 1, socket=shared.socket).step == 1
        assert into["v"] == 1
        with pytest.raises(cairn.NoSuchStep, match="step=7, committed='2, 1'"):
            cairn.load(run, into, 7, socket=shared.socket)
        with pytest.raises(cairn.Mismatch, match="was not saved"):
            cairn.load(run, {"other": torch.zeros(1)}, socket=shared.socket)
        assert checkpointer.save(3, into).wait(timeout=30).level == "committed"  # nobody has ended its launch
    with pytest.raises(cairn.NoSuchStep, match="committed='none'"):
        cairn.load(f"{run}-none", into, socket=shared.socket)
    with pytest.raises(ValueError, match="rank 2 is not in a world of 2"):
        cairn.load(run, into, rank=2, world_size=2, socket=shared.socket)


def test_a_ranks_own_parts_and_all_of_them(shared: Daemon, run: str) -> None:
    with Job(shared, 2, run=run) as job:
        job.all(lambda ckpt: ckpt.save(1, {"own": torch.full((10,), float(ckpt.rank)), "number": ckpt.rank}).wait(timeout=30))
    for rank in range(2):
        into = {"own": torch.zeros(10), "number": -1}
        cairn.load(run, into, rank=rank, world_size=2, socket=shared.socket)
        assert (into["number"], float(into["own"][0])) == (rank, rank)
    with pytest.raises(cairn.WorldSizeChanged):
        cairn.load(run, {"own": torch.zeros(10), "number": -1}, socket=shared.socket)


def test_a_reader_may_only_read(shared: Daemon, run: str) -> None:
    with shared.open(run) as checkpointer:
        checkpointer.save(1, {"a": torch.ones(1)}).wait(timeout=30)
    reader = Session(shared.socket, Who(run, 0, 1, None, None, ""), reads_only=True)
    reader.open()
    for method, parameters in {
        "Choose": {"restore": 1}, "Settle": {"restore": 1, "ok": True}, "Promote": {"step": 1, "level": "committed"},
        "Register": {"shards": []}, "Save": {"step": 2, "try": 0, "layout": "l"},
        "Branch": {"from": "other"},
    }.items():  # fmt: skip
        with pytest.raises(cairn.NotPermitted, match="opened to read only"):
            reader.load_call(method, parameters)
    assert [step["step"] for step in reader.load_call("Steps", {"run": run})["steps"]] == [1]
    operator = Connection(shared.socket)
    assert all(each["run"] != run for each in operator.call(OPERATIONS + "Status", {})["sessions"]["runs"])
    reader.close()
    with pytest.raises(cairn.Failed, match="leave out attempt"):
        operator.call(CHECKPOINT + "Open", {"run": run, "rank": 0, "worldSize": 1, "attempt": "a", "readOnly": True})
    operator.close()
