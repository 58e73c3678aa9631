"""What a broken or hostile client sends: each gets a typed error or a closed connection, and nobody else notices."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon, Raw, needs_daemon, short_folder, trainer

import cairn

pytestmark = pytest.mark.daemon

DATA = ctypes.create_string_buffer(b"x" * 4096, 4096)
ADDRESS = ctypes.addressof(DATA)


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    """One daemon takes all of it."""
    needs_daemon()
    cluster = Cluster(short_folder())
    try:
        yield cluster.daemon(limits={"messageBytes": "1MiB"})
    finally:
        cluster.stop()


@pytest.fixture
def daemon(served: Daemon) -> Iterator[Daemon]:
    """It must serve another run before and after what the test does to it."""
    served.run = f"run-{secrets.token_hex(4)}"
    with served.open(f"neighbour-{secrets.token_hex(4)}") as neighbour:
        state = {"a": torch.ones(100_000)}
        neighbour.save(1, state).wait("committed", timeout=30)
        yield served
        assert served.alive()
        neighbour.save(2, state).wait("committed", timeout=30)
        neighbour.check_for_errors()


def opened(daemon: Daemon, **options: Any) -> Raw:
    raw = daemon.raw()
    parameters: dict[str, Any] = {"run": daemon.run, "rank": 0, "worldSize": 1, "attempt": os.urandom(8).hex()} | options
    reply = raw.call("Open", **parameters)
    assert "error" not in reply, reply
    return raw


def shard(name: str = "a", **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "dtype": "F32", "shape": [4], "source": {"memory": [{"address": ADDRESS, "bytes": 16}]}}
    return made | options


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"hello\0",
        b"\0",
        b"\xff\xfe\0",
        b"[]\0",
        b"3\0",
        b'{"method":3}\0',
        b'{"parameters":{}}\0',
        b'{"method":"dev.cairn.Checkpoint.Open","parameters":[]}\0',
        b"[" * 100_000 + b"\0",
        b'{"method":"' + b"a" * 10_000 + b'"}\0',
    ],
)
def test_what_is_no_call_ends_the_connection_or_is_refused(daemon: Daemon, bytes_sent: bytes) -> None:
    raw = daemon.raw()
    raw.send(bytes_sent)
    reply = raw.receive()
    assert reply is None or "error" in reply
    raw.close()


def test_half_messages_do_no_harm(daemon: Daemon) -> None:
    raw = daemon.raw()
    raw.send(b'{"method":"dev.cairn.Check')
    raw.close()
    raw = daemon.raw()
    for byte in json.dumps({"method": "org.varlink.service.GetInfo", "parameters": {}}).encode() + b"\0":
        raw.send(bytes([byte]))
    reply = raw.receive()
    assert reply is not None
    assert "dev.cairn.Checkpoint" in reply["parameters"]["interfaces"]


def test_a_message_beyond_the_limit_is_refused(daemon: Daemon) -> None:
    raw = opened(daemon)
    try:
        raw.send(b'{"method":"' + b"a" * (2 << 20) + b'"}\0')
        reply = raw.receive()
    except (BrokenPipeError, ConnectionResetError):
        reply = None
    assert reply is None or reply["error"].endswith("TooLarge")


def test_unknown_methods_and_interfaces_are_named(daemon: Daemon) -> None:
    raw = daemon.raw()
    assert raw.call("dev.cairn.Checkpoint.Fly")["error"] == "org.varlink.service.MethodNotFound"
    assert raw.call("dev.cairn.Nothing.Fly")["error"] == "org.varlink.service.InterfaceNotFound"
    assert raw.call("nonsense.")["error"].startswith("org.varlink.service.")
    assert raw.call("Open", run=3, rank="x", worldSize=1)["error"] == "org.varlink.service.InvalidParameter"
    assert raw.call("Watch", run="run")["error"] in ("org.varlink.service.ExpectedMore", "dev.cairn.Checkpoint.NotOpen")
    for interface in ("dev.cairn.Checkpoint", "dev.cairn.Operations", "org.varlink.service"):
        text = raw.call("org.varlink.service.GetInterfaceDescription", interface=interface)["parameters"]["description"]
        assert f"interface {interface}" in text


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("Register", {"shards": []}),
        ("Save", {"step": 1, "try": 1, "layout": "x"}),
        ("Lease", {"bytes": 1}),
        ("Load", {"step": 1, "sequence": 1, "boxes": []}),
        ("Choose", {"restore": 1}),
        ("Settle", {"restore": 1, "ok": True}),
        ("Describe", {"step": 1}),
        ("Wait", {"save": "1-1-1", "level": "staged"}),
        ("Close", {}),
    ],
)
def test_calls_without_a_session_are_refused(daemon: Daemon, method: str, parameters: dict[str, Any]) -> None:
    assert daemon.raw().error(method, **parameters) == "NotOpen"


@pytest.mark.parametrize("run", ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "-x", "ä", "x" * 101, "a b"])
def test_bad_names_of_runs_are_refused(daemon: Daemon, run: str) -> None:
    reply = daemon.raw().call("Open", run=run, rank=0, worldSize=1, attempt="x")
    assert reply.get("error", "").rpartition(".")[2] in ("InvalidParameter", "NotPermitted", "Failed"), reply
    with pytest.raises(ValueError, match="run"):
        cairn.Checkpointer(run, socket=daemon.socket)


@pytest.mark.parametrize(
    "who",
    [(-1, 1), (1, 1), (0, 0), (0, -3), (5, 2), (0, 1 << 40), (1 << 62, 1 << 62), (-(1 << 63), (1 << 63) - 1)],
)
def test_bad_ranks_and_world_sizes_are_refused(daemon: Daemon, who: tuple[int, int]) -> None:
    assert daemon.raw().error("Open", run=daemon.run, rank=who[0], worldSize=who[1], attempt="x") != ""


@pytest.mark.parametrize("number", [0, -1, 1 << 31, 1 << 62, (1 << 63) - 1])
def test_numbers_that_no_attempt_has_are_refused(daemon: Daemon, number: int) -> None:
    reply = daemon.raw().call("Open", run=daemon.run, rank=0, worldSize=1, attempt="x", number=number)
    assert reply["error"].endswith("InvalidParameter")


def test_another_world_size_in_the_same_attempt_is_refused(daemon: Daemon) -> None:
    first = opened(daemon, rank=0, worldSize=2, attempt="same")
    assert daemon.raw().error("Open", run=daemon.run, rank=1, worldSize=3, attempt="same") != ""
    first.close()


def test_a_rank_that_is_taken_is_refused_while_its_process_lives(daemon: Daemon) -> None:
    script = (
        "import sys, torch, cairn\n"
        "ckpt = cairn.Checkpointer(sys.argv[2], socket=sys.argv[1], attempt='same')\n"
        "print('open', flush=True); sys.stdin.readline()\n"
    )
    process = trainer(script, daemon.socket, daemon.run)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    raw = daemon.raw()
    reply = raw.call("Open", run=daemon.run, rank=0, worldSize=1, attempt="same")
    assert reply["error"].endswith("RankTaken")
    assert reply["parameters"]["pid"] == process.pid
    process.kill()
    process.wait(10)
    for _ in range(200):
        if raw.error("Open", run=daemon.run, rank=0, worldSize=1, attempt="same") == "":
            break
    else:
        pytest.fail("the rank of a dead process stays taken")


def test_the_same_process_replaces_its_session(daemon: Daemon) -> None:
    first, second = opened(daemon, attempt="same"), opened(daemon, attempt="same")
    assert first.error("Register", shards=[shard()]) == "NotOpen"
    assert second.error("Register", shards=[shard()]) == ""


BAD_SHARDS: dict[str, list[dict[str, Any]]] = {
    "unknown dtype": [shard(dtype="F99")],
    "negative shape": [shard(shape=[-4])],
    "overflowing shape": [shard(shape=[1 << 40, 1 << 40])],
    "shape and bytes differ": [shard(shape=[5])],
    "too many dimensions": [shard(shape=[1] * 2000 + [4])],
    "negative bytes": [shard(source={"memory": [{"address": ADDRESS, "bytes": -16}]})],
    "negative address": [shard(source={"memory": [{"address": -4096, "bytes": 16}]})],
    "address that wraps": [shard(source={"memory": [{"address": (1 << 63) - 1, "bytes": 16}]})],
    "empty name": [shard("")],
    "name with NUL": [shard("a\0b")],
    "name with newline": [shard("a\nb")],
    "long name": [shard("a" * 5000)],
    "reserved name": [shard("__metadata__")],
    "name of an object": [shard("cairn.object.00000.x")],
    "name of a private one": [shard("rank-00001/a")],
    "equal names": [shard("a"), shard("a")],
    "outside its whole": [shard(globalShape=[6], offsets=[4])],
    "dimensions differ": [shard(shape=[2, 2], globalShape=[8], offsets=[0])],
    "range with two offsets": [shard(globalShape=[6, 6], offsets=[0, 0])],
    "range outside its whole": [shard(globalShape=[2, 3], offsets=[4])],
    "offsets overflow": [shard(globalShape=[6], offsets=[(1 << 63) - 1])],
    "replica beyond": [shard(replica=2, replicas=2)],
    "private part": [shard(private=True, globalShape=[8], offsets=[0])],
    "no source": [shard(source={})],
    "descriptor beyond": [shard(source={"descriptor": 64, "offset": 0})],
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_bad_shards_are_refused_by_name(daemon: Daemon, case: str) -> None:
    raw = opened(daemon)
    error = raw.error("Register", shards=BAD_SHARDS[case])
    assert error in ("InvalidShard", "InvalidParameter", "NotSupported", "TooLarge"), error
    assert raw.error("Register", shards=[shard("ok/with/slash")]) == ""


def test_addresses_that_are_not_mapped_fail_the_save_only(daemon: Daemon) -> None:
    raw = opened(daemon)
    for number, eager in enumerate((True, False)):
        layout = raw.call("Register", shards=[shard(eager=eager, source={"memory": [{"address": 4096, "bytes": 16}]})])
        reply = raw.call("Save", step=number, **{"try": 1}, layout=layout["parameters"]["layout"])
        if "error" not in reply:
            ended = raw.call("Wait", save=reply["parameters"]["save"], level="committed", timeoutMs=10_000)
            assert ended["parameters"]["level"] == "failed", ended
            assert ended["parameters"]["reason"]
    good = raw.call("Register", shards=[shard()])["parameters"]["layout"]
    save = raw.call("Save", step=9, **{"try": 1}, layout=good)["parameters"]["save"]
    assert raw.call("Wait", save=save, level="committed", timeoutMs=20_000)["parameters"]["level"] == "committed"


def test_bad_saves_are_refused(daemon: Daemon) -> None:
    raw = opened(daemon)
    layout = raw.call("Register", shards=[shard()])["parameters"]["layout"]
    assert raw.error("Save", step=1, **{"try": 1}, layout="nonsense") == "UnknownLayout"
    for step in (-1, 10**18, (1 << 63) - 1):
        assert raw.error("Save", step=step, **{"try": 1}, layout=layout) == "InvalidParameter"
    assert raw.error("Save", step=1, **{"try": 0}, layout=layout) != ""
    assert raw.error("Save", step=1, **{"try": 1}, layout=layout, upto="moon") == "InvalidParameter"
    huge = {"name": "x", "scope": "rank", "bytes": 1 << 60, "source": {"memory": [{"address": ADDRESS, "bytes": 1 << 60}]}}
    assert raw.error("Save", step=1, **{"try": 1}, layout=layout, objects=[huge]) != ""
    for name in ("", "a\0b", "x" * 5000):
        bad = {"name": name, "scope": "rank", "bytes": 4, "source": {"memory": [{"address": ADDRESS, "bytes": 4}]}}
        assert raw.error("Save", step=1, **{"try": 1}, layout=layout, objects=[bad]) != "", name
    for held in ({"copies": True}, {"files": [bad]}, {"try": 0}, {"step": -1}, {"upto": "accepted"}, {"layout": "none"}):
        assert raw.error("Save", **({"try": 1, "layout": layout, "hold": True} | held)) != "", held
    for sealed in ({"save": "x"}, {"save": "1-1-0"}, {"save": "1-1-1", "step": 1}, {"save": 3}, {}):
        assert raw.error("Seal", **sealed) != "", sealed
    assert raw.error("Save", step=1, **{"try": 1}, layout=layout, participants=[0]) in ("", "NotSupported")


def test_saves_beyond_the_limit_are_busy(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="128MiB", limits={"inFlightPerRank": 1})
    big = torch.ones(40 << 20)
    raw = opened(daemon)
    source = {"memory": [{"address": big.data_ptr(), "bytes": big.nbytes}]}
    layout = raw.call("Register", shards=[shard(shape=[big.numel()], eager=False, source=source)])["parameters"]["layout"]
    errors = [raw.error("Save", step=step, **{"try": 1}, layout=layout) for step in range(5)]
    assert errors[0] == ""
    assert "Busy" in errors
    assert set(errors) <= {"", "Busy"}


def test_unknown_runs_steps_and_saves_are_typed(daemon: Daemon) -> None:
    raw = opened(daemon)
    assert raw.error("Choose", restore=1) == "NoSuchStep"
    assert raw.error("Describe", step=7) in ("NoSuchStep", "NoSuchRun")
    assert raw.error("Wait", save="1-1-1", level="staged", timeoutMs=10) == "UnknownSave"
    assert raw.error("Wait", save="../../x", level="staged", timeoutMs=10) in ("UnknownSave", "InvalidParameter")
    reply = raw.call("Steps", run="never")
    assert reply.get("parameters", {}).get("steps") == [] or reply["error"].endswith("NoSuchRun")
    assert raw.error("Steps", run="../neighbour") != ""
    assert raw.error("dev.cairn.Operations.Delete", run="never", step=1) in ("NoSuchRun", "NoSuchStep")
    assert raw.error("Release", segment=99) != ""
    assert raw.error("Lease", bytes=-1) != ""
    assert raw.error("Lease", bytes=1 << 50) == "TooLarge"
    assert raw.error("Settle", restore=5, ok=True) != ""


def test_bad_boxes_are_refused(daemon: Daemon) -> None:
    raw = opened(daemon)
    layout = raw.call("Register", shards=[shard()])["parameters"]["layout"]
    save = raw.call("Save", step=1, **{"try": 1}, layout=layout)["parameters"]["save"]
    raw.call("Wait", save=save, level="committed", timeoutMs=20_000)
    chosen = raw.call("Choose", restore=1)["parameters"]
    assert raw.error("Load", **chosen, boxes=[{"name": "a"}]) != ""  # no lease yet
    raw.call("Lease", bytes=1 << 20)
    for box in (
        {"name": "nothing"},
        {"name": "a", "offsets": [-1], "shape": [1]},
        {"name": "a", "offsets": [3], "shape": [2]},
        {"name": "a", "offsets": [0, 0], "shape": [1, 1]},
        {"name": "a", "offsets": [(1 << 63) - 1], "shape": [(1 << 63) - 1]},
        {"name": "a", "rank": 7},
    ):
        assert raw.error("Load", **chosen, boxes=[box]) != "", box
    assert raw.call("Load", **chosen, boxes=[{"name": "a", "offsets": [1], "shape": [2]}])["parameters"]["placed"][0]["bytes"] == 8
    workers = daemon.workers()
    for sequence in (999, -1, -(1 << 63), (1 << 63) - 1):
        assert raw.error("Load", step=1, sequence=sequence, boxes=[{"name": "a"}]) == "NoSuchStep", sequence
        assert raw.error("Describe", step=1, sequence=sequence) == "NoSuchStep", sequence
    assert daemon.workers() == workers


def test_descriptors_that_nobody_asked_for_are_harmless(daemon: Daemon) -> None:
    message = json.dumps({"method": "org.varlink.service.GetInfo", "parameters": {}}).encode() + b"\0"
    for path in (daemon.socket, daemon.socket + ".memory"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(10)
            peer.connect(path)
            read, write = os.pipe()
            try:
                socket.send_fds(peer, [message], [read] * 50)
                peer.recv(1 << 16)
            except PermissionError:  # since Linux 6.16 the daemon's own socket refuses them
                assert path == daemon.socket
            os.close(read)
            os.close(write)


def test_a_memory_descriptor_must_be_ones_own(daemon: Daemon) -> None:
    for session in ("nonsense", ""):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, open("/dev/zero", "rb") as wrong:
            peer.settimeout(10)
            peer.connect(daemon.socket + ".memory")
            call = {"method": "dev.cairn.Checkpoint.Attach", "parameters": {"session": session, "memory": 0}}
            socket.send_fds(peer, [json.dumps(call).encode() + b"\0"], [wrong.fileno()])
            reply = peer.recv(1 << 16)
            assert reply == b"" or b'"error"' in reply


def test_many_connections_come_and_go(daemon: Daemon) -> None:
    for _ in range(300):
        daemon.raw().close()
    held = [daemon.raw() for _ in range(200)]
    assert "parameters" in held[-1].call("org.varlink.service.GetInfo")
    for raw in held:
        raw.close()
