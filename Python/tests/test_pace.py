"""``every="auto"``: saves as often as the daemon advises, at the same steps on all ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_daemon import Cluster, Daemon

import cairn
from cairn import limits
from cairn.pace import Pace, advised


def test_rank_zero_asks_now_and_then_and_saves_by_the_answer() -> None:
    now, advice, asked = 0.0, [None, 20.0, 20.0, 5.0], []

    def ask() -> float | None:
        asked.append(now)
        return advice[len(asked) - 1]

    pace = Pace(0, 1, ask, clock=lambda: now)
    assert pace.is_due(), "nothing was saved yet"
    assert not asked
    pace.saved()
    now = limits.FIRST_INTERVAL_SECONDS - 1
    assert not pace.is_due()
    now += limits.INTERVAL_ASKED_SECONDS
    assert pace.is_due()
    pace.saved()
    now += 19
    assert not pace.is_due()
    now += 1
    assert pace.is_due()
    now += limits.INTERVAL_ASKED_SECONDS
    pace.saved()
    assert not pace.is_due()
    now += 6
    assert not pace.is_due(), "asked again only after a while"
    now += limits.INTERVAL_ASKED_SECONDS
    assert pace.is_due()
    assert len(asked) == 4


def test_what_cannot_be_is_refused() -> None:
    for every in ("always", {}):
        with pytest.raises(ValueError, match="every"):
            cairn.Checkpointer("run", every=every)
    with pytest.raises(ValueError, match="mtbf"):
        cairn.Checkpointer("run", every="auto", mtbf=1)


def test_the_daemon_advises_by_what_it_measured(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    assert advised(daemon.socket, "run", 3600) is None
    assert advised(daemon.socket + "-not", "run", 3600) is None
    with daemon.open(every="auto", mtbf=3600) as checkpointer:
        assert checkpointer.should_save(1)
        for step in range(1, 4):
            checkpointer.save(step, {"w": np.full(1 << 20, step, dtype=np.float32)}).wait("committed", timeout=30)
        assert not checkpointer.should_save(4)
    interval = advised(daemon.socket, "run", 3600)
    assert interval is not None
    # A millisecond held up, a failure an hour: 2.7 s, or as long as one save takes.
    assert 1 < interval < 600
    longer = advised(daemon.socket, "run", 360_000)
    assert longer is not None
    assert longer >= interval


RANK = """
import sys
import torch
import torch.distributed as dist

import cairn

rank, socket, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ckpt = cairn.Checkpointer("paced", rank=rank, world_size=2, local_rank=rank, local_world_size=2, socket=socket, attempt="a", every="auto")
try:
    ckpt.should_save(0)
    raise SystemExit("agreed without a process group")
except cairn.CannotAgree as refused:
    assert "init_process_group" in str(refused)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
due = []
for step in range(6):
    if step == 3 and rank == 0:
        ckpt._pace._saved -= 1e6
    if ckpt.should_save(step):
        due.append(step)
        ckpt.save(step, {"w": torch.full((1000,), float(step))}).wait("committed", timeout=30)
print(due)
ckpt.close()
"""


def test_all_ranks_save_at_the_same_steps(cluster: Cluster) -> None:
    daemon: Daemon = cluster.daemon()
    meeting = Path(daemon.folder) / "meeting"
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), daemon.socket, str(meeting)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=60)[0].strip() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert told == ["[0, 3]"] * 2
