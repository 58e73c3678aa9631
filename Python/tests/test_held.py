"""Held saves and files beside a rank's own, in the words of the wire: what is staged before it is known which step it is."""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from real_daemon import Cluster, Daemon
from safetensors.numpy import load_file

pytestmark = pytest.mark.daemon

CHUNK = 8 << 20


class Rank:
    """A rank whose tensors are plain buffers."""

    def __init__(self, daemon: Daemon) -> None:
        self.raw = daemon.raw()
        self.raw.socket.settimeout(60)
        opened = self.raw.call("Open", run="run", rank=0, worldSize=1)
        assert "error" not in opened, opened
        self.buffers: dict[str, Any] = {}
        self.holds = 0

    def fill(self, **sizes: int) -> str:
        """Tensors of so many bytes, each with bytes of its own; the layout's name."""
        for number, (name, count) in enumerate(sizes.items()):
            self.buffers[name] = (ctypes.c_char * count).from_buffer_copy(bytes([number + 1]) * count)
        shards = [
            {"name": name, "dtype": "U8", "shape": [len(buffer)], "source": source(ctypes.addressof(buffer), len(buffer))}
            for name, buffer in self.buffers.items()
        ]
        return str(self.parameters("Register", shards=shards)["layout"])

    def parameters(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        reply = self.raw.call(method, **parameters)
        assert "error" not in reply, reply
        found: dict[str, Any] = reply["parameters"]
        return found

    def hold(self, layout: str, **parameters: Any) -> str:
        self.holds += 1
        save = str(self.parameters("Save", **{"try": self.holds}, layout=layout, hold=True, **parameters)["save"])
        assert self.parameters("Wait", save=save, level="staged", timeoutMs=10_000)["level"] == "staged"
        return save

    def object(self, name: str, data: bytes) -> dict[str, Any]:
        buffer = self.buffers[f"object {name}"] = (ctypes.c_char * max(1, len(data))).from_buffer_copy(data or b"\0")
        return {"name": name, "scope": "rank", "bytes": len(data), "source": source(ctypes.addressof(buffer), len(data))}

    def wait(self, save: str, level: str = "committed") -> None:
        reply = self.parameters("Wait", save=save, level=level, timeoutMs=30_000)
        assert reply["level"] == level, reply


def source(address: int, count: int) -> dict[str, Any]:
    return {"memory": [{"address": address, "bytes": count}] if count else []}


@pytest.fixture(params=[1, 2], ids=["one-tier", "two-tiers"])
def daemon(request: pytest.FixtureRequest, cluster: Cluster) -> Daemon:
    return cluster.daemon(tiers=request.param)


def saving_folders(daemon: Daemon) -> list[Path]:
    return sorted(daemon.run_folder().glob(".saving-*")) + daemon.step_folders()


def test_a_held_save_goes_to_no_tier_and_is_sealed_with_less_and_more(daemon: Daemon) -> None:
    rank = Rank(daemon)
    layout = rank.fill(a=3 * CHUNK + 5, b=CHUNK // 2, c=CHUNK, d=0, e=17)
    held = rank.hold(layout, objects=[rank.object("kept", b"x" * 100), rank.object("left", b"y")])
    assert held.endswith("-0")
    assert not saving_folders(daemon)
    for buffer in rank.buffers.values():
        ctypes.memset(buffer, 0xFF, len(buffer))  # it was staged
    text = b"more " * 1000
    wanted: dict[str, Any] = {
        "save": held, "step": 30, "drop": ["b", "left"], "objects": [rank.object("more", text)], "files": [rank.object(".metadata", text[::-1])],
        "metadata": {"by": "test"},
    }  # fmt: skip
    plan = rank.parameters("Seal", **wanted, plan=True)
    reply = rank.parameters("Seal", **wanted)
    assert plan == reply
    rank.wait(reply["save"])
    (folder,) = daemon.step_folders()
    assert folder.name.startswith("step-30.")
    path = folder / "rank-00000.safetensors"
    assert path.stat().st_size == reply["bytes"]
    found = {name: value.tobytes() for name, value in load_file(path).items()}
    assert {name: (len(data), set(data)) for name, data in found.items() if not name.startswith("cairn.object")} == {
        "a": (3 * CHUNK + 5, {1}), "c": (CHUNK, {3}), "d": (0, set()), "e": (17, {5}),
    }  # fmt: skip
    assert found["cairn.object.00000.kept"] == b"x" * 100
    assert found["cairn.object.00000.more"] == text
    assert found["cairn.object.00000.cairn.file..metadata"] == text[::-1]
    assert "cairn.object.00000.left" not in found
    assert (folder / ".metadata").read_bytes() == text[::-1]
    with path.open("rb") as file:
        file.seek(reply["dataStart"])
        assert file.read(CHUNK) == b"\1" * CHUNK
    about = rank.parameters("Describe", step=30)
    assert {shard["name"] for shard in about["shards"]} == {"a", "c", "d", "e"}
    assert about["metadata"] == {"by": "test"}
    assert verified(daemon, 30) == []
    # What stands beside is watched over as the rest is.
    (folder / ".metadata").write_bytes(text[::-1][:-1] + b"?")
    assert [Path(bad["path"]).name for bad in verified(daemon, 30)] == [".metadata"]


def verified(daemon: Daemon, step: int) -> list[dict[str, Any]]:
    """What is bad of a step where it is committed."""
    raw = daemon.raw()
    tier = "global" if daemon.shared is not None else "local"
    raw.send(
        json.dumps(
            {"method": "dev.cairn.Operations.Verify", "parameters": {"run": "run", "step": step, "tier": tier}, "more": True}
        ).encode()
        + b"\0"
    )
    bad = []
    while True:
        reply = raw.receive()
        assert reply is not None
        assert "error" not in reply, reply
        bad += reply["parameters"]["bad"]
        if not reply.get("continues"):
            raw.close()
            return bad


def test_it_is_sealed_once_and_by_its_own_rank(daemon: Daemon) -> None:
    rank = Rank(daemon)
    held = rank.hold(rank.fill(a=100))
    assert rank.raw.error("Seal", save="1-99-0", step=1) == "UnknownSave"
    assert rank.raw.error("Seal", save=held) == "InvalidParameter"
    assert rank.raw.error("Seal", save=held, step=-1) == "InvalidParameter"
    assert rank.raw.error("Seal", save=held, step=1, drop=["strange"]) == "InvalidShard"
    assert rank.raw.error("Wait", save=held, level="committed") == "UnknownSave"
    save = rank.parameters("Seal", save=held, step=1)["save"]
    assert rank.raw.error("Seal", save=held, step=2) == "UnknownSave"
    rank.wait(save)
    again = rank.hold(rank.fill(a=100))
    assert rank.raw.error("Seal", save=again, step=1) in ("InvalidShard", "Failed")  # that try was made
    rank.wait(rank.parameters("Seal", save=again, step=1, **{"try": 2})["save"])


def test_held_saves_are_bounded_and_given_up(daemon: Daemon) -> None:
    rank = Rank(daemon)
    layout = rank.fill(a=100)
    first, second = rank.hold(layout), rank.hold(layout)
    assert rank.raw.error("Save", **{"try": 3}, layout=layout, hold=True) == "Busy"
    rank.parameters("Seal", save=first, discard=True)
    third = rank.parameters("Save", **{"try": 4}, layout=layout, hold=True)["save"]
    assert rank.raw.error("Seal", save=first, step=1) == "UnknownSave"
    # Other saves go on meanwhile.
    rank.wait(rank.parameters("Save", step=5, **{"try": 1}, layout=layout)["save"])
    rank.wait(rank.parameters("Seal", save=second, step=6)["save"])
    rank.wait(rank.parameters("Seal", save=third, step=7)["save"])
    assert daemon.step_folders()[-1].name.startswith("step-7.")


def test_a_held_save_ends_with_its_session_and_a_sealed_one_does_not(daemon: Daemon) -> None:
    rank = Rank(daemon)
    layout = rank.fill(a=6 * CHUNK)
    held = rank.hold(layout)
    rank.raw.close()
    other = Rank(daemon)
    layout = other.fill(a=6 * CHUNK)
    assert other.raw.error("Seal", save=held, step=1) == "UnknownSave"
    sealed = other.hold(layout)
    other.parameters("Seal", save=sealed, step=2)
    other.raw.close()
    deadline = time.monotonic() + 30
    while not daemon.step_folders() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [folder.name.split(".")[0] for folder in daemon.step_folders()] == ["step-2"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "rank-00000.crc", ".rank-00000.x", "checkpoint.json", "layout-1.json", "pin", ".saving-1-1-1",
     "x.part", "y.safetensors", "-x", "a b", "é", "x" * 101, "..x", "\0"],
)  # fmt: skip
def test_a_file_has_a_plain_name_of_its_own(name: str, cluster: Cluster) -> None:
    rank = Rank(cluster.daemon())
    layout = rank.fill(a=1)
    assert rank.raw.error("Save", step=1, **{"try": 1}, layout=layout, files=[rank.object(name, b"x")]) == "InvalidShard"


def test_files_come_with_an_ordinary_save_too_and_stay_with_a_branch(daemon: Daemon) -> None:
    rank = Rank(daemon)
    layout = rank.fill(a=CHUNK)
    twice = [rank.object("notes.txt", b"1"), rank.object("notes.txt", b"2")]
    assert rank.raw.error("Save", step=1, **{"try": 1}, layout=layout, files=twice) == "InvalidShard"
    files = [rank.object("notes.txt", b"hello"), rank.object("empty", b"")]
    rank.wait(rank.parameters("Save", step=1, **{"try": 1}, layout=layout, files=files)["save"])
    (folder,) = daemon.step_folders()
    assert (folder / "notes.txt").read_bytes() == b"hello"
    assert (folder / "empty").read_bytes() == b""
    raw = daemon.raw()
    raw.socket.settimeout(60)
    raw.call("Open", run="branch", rank=0, worldSize=1)
    assert "error" not in raw.call("Branch", **{"from": "run"})
    (branched,) = (daemon.tier / str(os.getuid()) / "branch").glob("step-*")
    assert (branched / "notes.txt").read_bytes() == b"hello"


@pytest.mark.parametrize("form", ["none", "zstd"])
def test_files_stand_beside_a_compressed_file_as_they_are(form: str, cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, compression=form)
    rank = Rank(daemon)
    text = json.dumps(list(range(200_000))).encode()
    held = rank.hold(rank.fill(a=2 * CHUNK - 1000))
    rank.wait(rank.parameters("Seal", save=held, step=1, files=[rank.object(".metadata", text)])["save"])
    (folder,) = daemon.step_folders()
    assert (folder / ".metadata").read_bytes() == text
    assert verified(daemon, 1) == []
