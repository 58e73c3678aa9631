"""Where a job's restores get their bytes on several nodes, each of which has only its own ranks' parts near."""

from __future__ import annotations

import ctypes
import json
import re
import secrets
import signal
from typing import Any

import pytest
from jobs import MIB, state
from machine import cli, committed, steps, until
from real_daemon import Cluster, Daemon
from test_nodes import check_ranks, open_rank, restore_all

SAME = [(0, 0), (1, 1)]
SWAPPED = [(0, 1), (1, 0)]


@pytest.fixture
def nodes(cluster: Cluster) -> list[Daemon]:
    return [cluster.daemon(tiers=2), cluster.daemon(tiers=2)]


def loaded(daemon: Daemon) -> dict[str, int]:
    """Bytes that the daemon has handed back since its start, by tier."""
    return {
        tier: int(count)
        for tier, count in re.findall(r'^cairn_loaded_bytes_total\{tier="(\w+)"\} (\d+)$', cli(daemon, "metrics"), re.M)
    }


def save_all(nodes: list[Daemon], step: int, level: str) -> None:
    """One launch of a rank a node."""
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    upto = None if level == "committed" else level
    saves = [checkpointer.save(step, state(100 * step + rank, 4), level=upto) for rank, checkpointer in enumerate(ranks)]
    for save in saves:
        save.wait(level, timeout=20)
    for checkpointer in ranks:
        checkpointer.close()


def test_each_node_gives_its_own_ranks_their_parts(nodes: list[Daemon]) -> None:
    save_all(nodes, 1, "committed")
    check_ranks(restore_all(nodes, SAME, 2, 1), 1)
    for node in nodes:
        found = loaded(node)
        assert found["memory"] >= 4 << 20
        assert found["local"] == found["global"] == 0
    for node in nodes:
        node.stop()
        node.start()
    check_ranks(restore_all(nodes, SAME, 2, 1), 1)
    for node in nodes:
        found = loaded(node)
        assert found["local"] >= 4 << 20
        assert found["memory"] == found["global"] == 0
    # Ranks that come back elsewhere have the global tier.
    check_ranks(restore_all(nodes, SWAPPED, 2, 1), 1)
    assert all(loaded(node)["global"] >= 4 << 20 for node in nodes)


@pytest.mark.parametrize("level", ["local", "staged"])
def test_a_save_that_stayed_near_is_restored_where_every_rank_finds_its_part(nodes: list[Daemon], level: str) -> None:
    save_all(nodes, 1, "committed")
    save_all(nodes, 2, level)
    assert steps(nodes[0]) == [1]
    check_ranks(restore_all(nodes, SAME, 2, 1), 2)
    assert all(loaded(node)["global"] == 0 for node in nodes)
    # A rank that is elsewhere would not find its part: all take the older step.
    check_ranks(restore_all(nodes, SWAPPED, 2, 1), 1)


def test_what_one_node_lost_is_restored_by_nobody(nodes: list[Daemon]) -> None:
    save_all(nodes, 1, "committed")
    save_all(nodes, 2, "staged")
    nodes[1].stop(signal.SIGKILL)
    nodes[1].start()
    check_ranks(restore_all(nodes, SAME, 2, 1), 1)


def test_a_local_copy_beside_a_memory_copy(nodes: list[Daemon]) -> None:
    """A node that was restarted reads from its drive, the other one from memory."""
    save_all(nodes, 1, "committed")
    save_all(nodes, 2, "local")
    nodes[1].stop(signal.SIGKILL)
    nodes[1].start()
    check_ranks(restore_all(nodes, SAME, 2, 1), 2)
    assert loaded(nodes[0])["memory"] >= 4 << 20
    assert loaded(nodes[1])["local"] >= 4 << 20


class RawRank:
    """A rank of a world of two, in the words of the wire."""

    def __init__(self, daemon: Daemon, rank: int, attempt: str) -> None:
        self.rank = rank
        self.raw = daemon.raw()
        reply = self.raw.call("Open", run="run", rank=rank, worldSize=2, localWorldSize=1, attempt=attempt)
        if reply["parameters"]["memory"]:
            pytest.skip("the daemon may not read this process's memory by its pid")
        self.kept: list[ctypes.Array[ctypes.c_char]] = []

    def save(self, name: str, byte: int, *, copies: bool = False, private: bool = False) -> None:
        buffer = ctypes.create_string_buffer(bytes([byte]) * MIB, MIB)
        self.kept.append(buffer)
        source = {"memory": [{"address": ctypes.addressof(buffer), "bytes": MIB}]}
        shard = {"name": name, "dtype": "U8", "shape": [MIB], "private": private, "source": source}
        layout = self.raw.call("Register", shards=[shard])["parameters"]["layout"]
        reply = self.raw.call("Save", step=1, **{"try": 1}, layout=layout, copies=copies)
        assert "error" not in reply, reply

    def load(self, step: int, sequence: int, name: str) -> dict[str, Any]:
        self.raw.call("Lease", bytes=2 * MIB)
        return self.raw.call("Load", step=step, sequence=sequence, boxes=[{"name": name}])


def test_copies_of_replicas_are_read_near(nodes: list[Daemon]) -> None:
    """Rank 0 owns a replica, rank 1's node keeps a copy: the commit lists it once, and each node reads it from memory."""
    ranks = [RawRank(node, rank, "one") for rank, node in enumerate(nodes)]
    ranks[1].save("shared", 7, copies=True)
    ranks[0].save("shared", 7)
    ranks[1].save("own", 8, private=True)
    committed(nodes[0], [1])
    until("the copies are on the drive", lambda: list(nodes[1].local.rglob("*.replicas-*.json")))
    for rank in ranks:
        rank.raw.close()
    assert loaded_from(nodes, "two") == ["memory", "memory"]
    for node in nodes:
        node.stop()
        node.start()
    assert loaded_from(nodes, "three") == ["local", "local"]
    assert not list(nodes[0].tier.rglob("*.replicas*")), "the global tier has the owner's part only"


def loaded_from(nodes: list[Daemon], attempt: str) -> list[str]:
    """The tier that each rank of a new launch gets the replica from."""
    ranks = [RawRank(node, rank, attempt) for rank, node in enumerate(nodes)]
    for rank in ranks:
        rank.raw.send(json.dumps({"method": "dev.cairn.Checkpoint.Choose", "parameters": {"restore": 1}}).encode() + b"\0")
    tiers = []
    for rank in ranks:
        reply = rank.raw.receive()
        assert reply is not None
        assert "error" not in reply, reply
        chosen = reply["parameters"]
        told = rank.raw.call("Describe", **chosen)["parameters"]
        assert [shard["name"] for shard in told["shards"]] == ["shared", "own"]
        loaded = rank.load(chosen["step"], chosen["sequence"], "shared")
        assert "error" not in loaded, loaded
        tiers.append(loaded["parameters"]["tier"])
        rank.raw.close()
    return tiers
