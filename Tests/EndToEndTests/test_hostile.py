"""Hostile clients beside a good one: each bad input gets a typed error or a closed connection, the good client's saves are all
committed meanwhile, and afterwards the daemon has as many files and as much memory as before.

CAIRN_HOSTILE=N does N times as much."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import random
import resource
import secrets
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import ADDRESS, DATA, MiB, Neighbour, another_user, attach, closed, hostile, message, open_files, opened, save, shard
from machine import cpu_seconds, descriptors, status, until
from real_daemon import Cluster, Daemon, Raw, trainer

pytestmark = pytest.mark.daemon

TIMES = int(os.environ.get("CAIRN_HOSTILE", "1"))
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1, 2, 4, 8
IMMUTABLE = F_SEAL_WRITE | F_SEAL_SHRINK
PUNCH_HOLE = 2 | 1


@pytest.fixture
def daemon(cluster: Cluster) -> Daemon:
    made = cluster.daemon(pool="128MiB", limits={"messageBytes": "1MiB", "fence": "5s", "attemptTimeout": "2s"})
    for folder in (made.folder.parent, made.folder):
        folder.chmod(0o711)  # its socket is for all users
    return made


@pytest.fixture
def besieged(daemon: Daemon) -> Iterator[Daemon]:
    with Neighbour(daemon):
        yield daemon


def drained(raw: Raw) -> int:
    """Bytes that come until the daemon closes, or sends no more for a while."""
    raw.socket.settimeout(0.5)
    count = 0
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while part := raw.socket.recv(MiB):
            count += len(part)
    return count


def test_who_does_not_read_is_not_answered_further(besieged: Daemon) -> None:
    call = message("org.varlink.service.GetInterfaceDescription", interface="dev.cairn.Checkpoint")
    calls = [hostile(besieged) for _ in range(50 * TIMES)]
    for raw in calls:
        raw.socket.settimeout(0.02)
        sent = 0
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            while sent < 64 * MiB:
                sent += raw.socket.send(call * 1000)
        assert sent < 8 * MiB, "a client that reads nothing was read without a bound"
    closed(calls)


def test_half_messages_take_a_bounded_room(besieged: Daemon) -> None:
    greeting = b'{"method":"' + b"a" * (60 << 10)
    halves = [hostile(besieged) for _ in range(300 * TIMES)]
    for raw in halves:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.send(greeting)
    sessions = []
    for number in range(40):
        raw = hostile(besieged)
        # Whoever has no room left may still say little.
        reply = raw.call("Open", run=f"half-{number}", rank=0, worldSize=1, attempt=secrets.token_hex(8))
        assert "error" not in reply, reply
        sessions.append(raw)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.send(b'{"method":"' + b"a" * (MiB - 100))
    answers = []
    for raw in halves + sessions:
        raw.socket.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            answers.append(raw.receive())
    assert len(answers) > len(halves) // 2
    assert all(answer is None or answer["error"].endswith("TooLarge") for answer in answers)
    closed(halves + sessions)


def test_layouts_and_saves_that_are_kept_take_a_bounded_room(besieged: Daemon) -> None:
    raws = [opened(besieged, run=f"layouts-{number}") for number in range(4)]
    shards = [shard(f"layer.{number}.{'n' * 60}") for number in range(3000)]
    errors = {raw.error("Register", shards=shards) for _ in range(5) for raw in raws}
    assert errors <= {"", "TooLarge"}, errors
    # A file of 16 TiB needs a table of 256 MiB: more than this user has.
    huge = shard(dtype="U8", shape=[(1 << 44) - (1 << 20)], source={"memory": [{"address": 4096, "bytes": (1 << 44) - (1 << 20)}]})
    level, reason = save(raws[0], 1, [huge])
    assert level == "refused", (level, reason)
    assert reason.startswith("TooLarge")
    closed(raws)


def test_thousands_of_connections_leave_room_for_others(besieged: Daemon) -> None:
    held: list[Raw] = []
    wanted = min(5000 * TIMES, open_files())
    for _ in range(wanted):
        held.append(hostile(besieged))
    with besieged.open("another") as checkpointer:
        assert checkpointer.all_steps() == []
    assert "parameters" in held[0].call("org.varlink.service.GetInfo")
    closed(held)


def test_a_daemon_out_of_files_lets_clients_wait_and_does_not_spin(besieged: Daemon) -> None:
    limits = resource.prlimit(besieged.pid, resource.RLIMIT_NOFILE)
    room = descriptors(besieged.pid) + 60
    resource.prlimit(besieged.pid, resource.RLIMIT_NOFILE, (room, limits[1]))
    held = [hostile(besieged) for _ in range(200)]
    until("it is out of files", lambda: "connections wait" in besieged.log.read_text())
    used = cpu_seconds([besieged.pid])
    time.sleep(1)
    assert cpu_seconds([besieged.pid]) - used < 0.7, "it spins"
    closed(held[:-10])
    assert "parameters" in held[-1].call("org.varlink.service.GetInfo")
    closed(held[-10:])
    resource.prlimit(besieged.pid, resource.RLIMIT_NOFILE, limits)


# Descriptors.


def lingering() -> tuple[socket.socket, socket.socket]:
    """A TCP socket whose last close waits for a minute: its peer, the second, does not read what it was sent."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        made = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    made.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            made.send(b"x" * MiB)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return made, peer


def test_closing_what_a_client_sent_holds_up_nobody(besieged: Daemon) -> None:
    info = message("org.varlink.service.GetInfo")
    kept = []
    for path in (besieged.socket, besieged.socket + ".memory"):
        for _ in range(4):
            given, peer = lingering()
            kept.append(peer)
            with another_user():
                raw = Raw(path)
            with besieged.paused("stager"):  # so that the last close is not this process's
                try:
                    socket.send_fds(raw.socket, [info], [given.fileno()])
                except PermissionError:  # the kernel gave it back, and this process should not linger either
                    given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
                os.close(given.detach())
            raw.close()
    begin = time.monotonic()
    assert "parameters" in besieged.raw().call("org.varlink.service.GetInfo")
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 16):
        assert time.monotonic() - begin < 30, "the main process closed a descriptor of a client's"
    for peer in kept:
        peer.close()  # and with it what lingers


def test_floods_of_descriptors_are_closed(besieged: Daemon) -> None:
    raw = opened(besieged)
    read, write = os.pipe()
    for count in (1, 16, 17, 100, 253):
        for _ in range(20 * TIMES):
            reply = attach(besieged, [read] * count, session=raw.token, memory=0)
            assert reply is None or reply["error"].rpartition(".")[2] == "NotPermitted", reply
    for index in (-1, 1, 99, 1 << 62):
        assert attach(besieged, [read], session=raw.token, memory=index)["error"].endswith("InvalidParameter")  # type: ignore[index]
    os.close(read)
    os.close(write)
    raw.close()


def sealed(data: bytes, seals: int = IMMUTABLE) -> int:
    made = os.memfd_create("source", os.MFD_ALLOW_SEALING)
    os.write(made, data)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
    return made


def test_what_is_neither_a_sealed_memfd_nor_memory_is_not_taken(besieged: Daemon, tmp_path: Path) -> None:
    raw = opened(besieged)
    read, write = os.pipe()
    (tmp_path / "file").write_bytes(b"x" * 4096)
    wrong = {
        "a pipe": read,
        "a file": os.open(tmp_path / "file", os.O_RDONLY),
        "a folder": os.open(tmp_path, os.O_RDONLY),
        "a device": os.open("/dev/zero", os.O_RDONLY),
        "a path": os.open(tmp_path, os.O_PATH),
        "memory that can be written to": os.open("/proc/self/mem", os.O_RDWR),
        "a path of memory": os.open("/proc/self/mem", os.O_PATH),
        "a memfd that nobody sealed": sealed(b"x" * 4096, 0),
        "one that can be written to": sealed(b"x" * 4096, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
        "one that can shrink": sealed(b"x" * 4096, F_SEAL_WRITE | F_SEAL_GROW),
    }
    for what, descriptor in wrong.items():
        reply = attach(besieged, [descriptor], session=raw.token, source=0, number=0)
        assert reply is not None, what
        assert reply["error"] == "dev.cairn.Checkpoint.NotPermitted", (what, reply)
        reply = attach(besieged, [descriptor], session=raw.token, memory=0)
        assert reply is not None, what
        assert reply["error"] == "dev.cairn.Checkpoint.NotPermitted", (what, reply)
    good = sealed(b"x" * 4096)
    for parameters in (
        {"source": 1, "number": 0},
        {"source": 0},
        {"source": 0, "number": 64},
        {"source": 0, "number": -1},
        {"source": 0, "number": 0, "memory": 0},
    ):
        reply = attach(besieged, [good], session=raw.token, **parameters)
        assert reply is not None
        assert reply["error"].endswith("InvalidParameter"), (parameters, reply)
    assert attach(besieged, [good], session="another", source=0, number=0)["error"].endswith("NotOpen")  # type: ignore[index]
    for descriptor in [*wrong.values(), good, write]:
        os.close(descriptor)
    raw.close()


def test_sources_are_staged_from_sealed_memfds(besieged: Daemon) -> None:
    raw = opened(besieged)
    first, second = os.urandom(3 * MiB + 17), os.urandom(10 * MiB)
    descriptors = [sealed(first), sealed(second)]
    for number, descriptor in enumerate(descriptors):
        assert "error" not in attach(besieged, [descriptor], session=raw.token, source=0, number=number)  # type: ignore[operator]
        os.close(descriptor)
    shards = [
        shard("odd", dtype="U8", shape=[len(first)], source={"descriptor": 0}),
        shard("inner", dtype="U8", shape=[9 * MiB], eager=False, source={"descriptor": 1, "offset": 1000}),
        shard("memory"),
    ]
    objects = [{"name": "o", "scope": "rank", "bytes": 5, "source": {"descriptor": 1, "offset": 7}}]
    assert save(raw, 1, shards, objects) == ("committed", "")
    step = raw.call("Choose", restore=1)["parameters"]
    lease = raw.call("Lease", bytes=16 * MiB)  # its memfd is dropped: the bytes are compared on disk
    assert "error" not in lease
    folder = next((besieged.tier / str(65534) / "hostile").glob(f"step-{step['step']}.*"))
    stored = (folder / "rank-00000.safetensors").read_bytes()
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    data = 8 + int.from_bytes(stored[:8], "little")

    def tensor(name: str) -> bytes:
        begin, end = header[name]["data_offsets"]
        return stored[data + begin : data + end]

    assert tensor("odd") == first
    assert tensor("inner") == second[1000 : 1000 + 9 * MiB]
    assert tensor("memory") == DATA.raw[:16]
    assert tensor("cairn.object.00000.o") == second[7:12]
    # What is not there, or not that long, fails the save and says so.
    for step, (source, reason) in enumerate(
        (
            ({"descriptor": 5}, "descriptor 5 is not attached"),
            ({"descriptor": 0, "offset": len(first) - 15}, "bytes, not 16 at"),
            ({"descriptor": 0, "offset": (1 << 63) - 17}, "bytes, not 16 at"),
        ),
        2,
    ):
        level, told = save(raw, step, [shard(source=source)])
        assert level in ("failed", "refused"), (source, level)
        assert reason in told, (source, told)
    for bad in (
        {"descriptor": 64},
        {"descriptor": -1},
        {"descriptor": 0, "offset": -1},
        {"descriptor": 0, "offset": (1 << 63) - 1},
        {"offset": 3},
    ):
        assert raw.error("Register", shards=[shard(source=bad)]) == "InvalidShard", bad
    both = {"descriptor": 0, "memory": [{"address": ADDRESS, "bytes": 16}]}
    assert raw.error("Register", shards=[shard(source=both)]) == "InvalidShard"
    raw.close()


def test_a_sparse_source_costs_its_sender_and_the_daemon_nothing(besieged: Daemon) -> None:
    made = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, 64 << 30)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, IMMUTABLE)
    raw = opened(besieged)
    assert "error" not in attach(besieged, [made], session=raw.token, source=0, number=63)  # type: ignore[operator]
    source = {"descriptor": 63, "offset": (64 << 30) - 16}
    assert save(raw, 1, [shard(source=source)]) == ("committed", "")
    os.close(made)
    raw.close()


def lease(raw: Raw, size: int) -> tuple[int, int]:
    raw.send(message("Lease", bytes=size))
    data, given, _, _ = socket.recv_fds(raw.socket, 4096, 1)
    return given[0], json.loads(data[:-1])["parameters"]["segment"]


def test_a_lease_that_its_holder_spoils_spoils_only_his_own_copy(besieged: Daemon) -> None:
    raw = opened(besieged)
    assert save(raw, 1, [shard(dtype="U8", shape=[4096], source={"memory": [{"address": ADDRESS, "bytes": 4096}]})]) == (
        "committed",
        "",
    )
    chosen = raw.call("Choose", restore=1)["parameters"]
    descriptor, segment = lease(raw, 4096)
    for size in (0, 1, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, F_SEAL_WRITE)
    with mmap.mmap(descriptor, 4096) as mapped:
        for _ in range(20):
            ctypes.CDLL(None, use_errno=True).fallocate(descriptor, PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(4096))
            reply = raw.call("Load", **chosen, boxes=[{"name": "a"}], segments=[segment])
            assert reply["parameters"]["placed"][0]["bytes"] == 4096
            assert mapped[:] == DATA.raw
            mapped[:] = secrets.token_bytes(4096)
    os.close(descriptor)
    assert raw.error("Release", segment=segment) == ""
    assert raw.error("Release", segment=segment) == "InvalidParameter"
    assert raw.error("Load", **chosen, boxes=[{"name": "a"}], segments=[segment]) != ""
    raw.close()


# Processes.

STUCK = """
import ctypes, fcntl, json, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
# userfaultfd(2): a page that is touched waits until this process fills it, and it never does.
faults = libc.syscall(323, 0)
assert faults >= 0, os.strerror(ctypes.get_errno())
api = bytearray(struct.pack("QQQ", 0xAA, 0, 0))
fcntl.ioctl(faults, 0xC018AA3F, api)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
libc.prctl(4, 1, 0, 0, 0)
area = mmap.mmap(-1, 1 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
fcntl.ioctl(faults, 0xC020AA00, bytearray(struct.pack("QQQQ", address, 1 << 20, 1, 0)))
def call(s, method, **parameters):
    s.sendall(json.dumps({"method": "dev.cairn.Checkpoint." + method, "parameters": parameters}).encode() + b"\\0")
    reply = b""
    while not reply.endswith(b"\\0"): reply += s.recv(65536)
    return json.loads(reply[:-1])
sockets, saves = [], []
for number in range(8):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sockets.append(s)
    call(s, "Open", run=f"stuck-{number}", rank=0, worldSize=1, attempt=str(os.getpid()))
    source = {"memory": [{"address": address, "bytes": 4096}]}
    shard = {"name": "a", "dtype": "U8", "shape": [4096], "eager": False, "source": source}
    layout = call(s, "Register", shards=[shard])["parameters"]["layout"]
    reply = call(s, "Save", step=1, layout=layout, **{"try": 1})
    saves.append(reply.get("parameters", {}).get("save"))
for s, save in zip(sockets, saves):
    reply = call(s, "Wait", save=save, level="committed", timeoutMs=60000) if save else {"parameters": {"level": "failed"}}
    print(reply["parameters"]["level"], flush=True)
sys.stdin.readline()
"""


def test_memory_that_hangs_holds_up_its_own_user_only(besieged: Daemon) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may use userfaultfd for the kernel's own reads")
    process = trainer(STUCK, besieged.socket)
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first and process.wait(10):
        pytest.skip("no userfaultfd here")
    assert [first, *(process.stdout.readline() for _ in range(7))] == ["failed\n"] * 8
    process.kill()
    process.wait(10)
    # With that process its memory is gone, and the threads come back.
    raw = opened(besieged)
    until("the user may save again", lambda: save(raw, 1, [shard()])[0] == "committed" or save(raw, 2, [shard()])[0] == "committed")
    raw.close()


KEPT = """
import ctypes, json, os, socket, sys
secret = ctypes.create_string_buffer(sys.argv[2].encode() * 16, 4096)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
def call(method, **parameters):
    s.sendall(json.dumps({"method": "dev.cairn.Checkpoint." + method, "parameters": parameters}).encode() + b"\\0")
    return json.loads(s.recv(65536)[:-1])["parameters"]
call("Open", run="kept", rank=0, worldSize=1, attempt="kept")
source = {"memory": [{"address": ctypes.addressof(secret), "bytes": 4096}]}
layout = call("Register", shards=[{"name": "a", "dtype": "U8", "shape": [4096], "source": source}])["layout"]
if os.fork() == 0:
    sys.stdin.readline()
    save = {"method": "dev.cairn.Checkpoint.Save", "parameters": {"step": 1, "try": 1, "layout": layout}}
    s.sendall(json.dumps(save).encode() + b"\\0")
    s.settimeout(20)
    print(s.recv(65536).decode() or "closed", flush=True)
    os._exit(0)
print(layout, flush=True)
import time; time.sleep(100)
"""


def test_a_child_with_the_socket_saves_nothing_after_the_rank_s_death(besieged: Daemon) -> None:
    """Not even when another process has the rank's pid by then."""
    process = trainer(KEPT, besieged.socket, "first")
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline()
    process.kill()
    process.wait(10)
    raw = besieged.raw()
    until("the rank is free", lambda: raw.error("Open", run="kept", rank=0, worldSize=1, attempt="kept") == "")
    last = Path("/proc/sys/kernel/ns_last_pid")
    reused = 0
    for _ in range(50):
        with contextlib.suppress(OSError):
            last.write_text(str(process.pid - 1))
        child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        if child == process.pid:
            reused = child
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert "NotOpen" in answer or answer in ("closed\n", ""), answer
    print(f"the pid was {'reused' if reused else 'not reused'}")
    if reused:
        os.kill(reused, signal.SIGKILL)
        os.waitpid(reused, 0)
    process.stdin.close()
    process.stdout.close()
    raw.close()


def test_addresses_that_are_nobody_s_fail_the_save(besieged: Daemon) -> None:
    raw = opened(besieged)
    area = mmap.mmap(-1, 8192)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 4096), ctypes.c_size_t(4096), 0)
    for number, (where, length) in enumerate(
        ((address + 4000, 200), ((1 << 47) - 4096, 8192), ((1 << 57) - 4096, 4096), (8192, 64), (address, 1 << 40))
    ):
        source = {"memory": [{"address": where, "bytes": length}]}
        for eager in (True, False):
            level, reason = save(raw, 2 * number + eager, [shard(dtype="U8", shape=[length], eager=eager, source=source)])
            assert level in ("failed", "refused"), (hex(where), length, level)
            assert reason, (hex(where), length)
    raw.close()


# Folders and names.


def test_what_is_planted_in_a_tier_leads_nowhere(daemon: Daemon, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret" * 1000)
    (outside / "secret").chmod(0o600)
    owner = daemon.local / str(os.getuid())
    with Neighbour(daemon):
        # A run, its attempts, and a save's folder that are links to elsewhere.
        (owner / "run-link").symlink_to(outside)
        (owner / "attempts-link").mkdir()
        (owner / "attempts-link" / "attempts").symlink_to(outside)
        for run in ("run-link", "attempts-link"):
            raw = daemon.raw()
            reply = raw.call("Open", run=run, rank=0, worldSize=1, attempt="a")
            assert "error" in reply, (run, reply)
            raw.close()
        with daemon.open("planted") as checkpointer:
            checkpointer.save(1, {"a": 1}).wait("committed", timeout=30)
            checkpointer.save(2, {"a": 2}).wait("committed", timeout=30)
            step = next((owner / "planted").glob("step-2.*"))
            (owner / "planted" / "step-3.1-3").symlink_to(outside)
            (owner / "planted" / ".saving-1-4-1").symlink_to(outside)
            os.link(outside / "secret", owner / "planted" / "attempts" / "000002.json")
            assert checkpointer.all_steps() == [1, 2]
            save_4 = checkpointer.save(4, {"a": 4})
            with contextlib.suppress(Exception):
                save_4.wait("committed", timeout=5)
        daemon_files = {path.name for path in outside.iterdir()}
        assert daemon_files == {"secret"}, "the daemon wrote through a link"
        assert (outside / "secret").read_bytes() == b"secret" * 1000
    daemon.stop()
    file = step / "rank-00000.safetensors"
    kept = file.read_bytes()
    file.unlink()
    file.symlink_to(outside / "secret")
    daemon.start()
    with daemon.open("planted") as checkpointer:
        into = {"a": 0}
        assert checkpointer.restore(into) in (1, 2)  # 2 may be of memory no more: its file is a link, so the older one
        assert into["a"] in (1, 2)
    daemon.stop()
    assert (outside / "secret").read_bytes() == b"secret" * 1000
    file.unlink()
    file.write_bytes(kept)
    daemon.start()


TRICKS = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    ".",
    "..",
    "-rf",
    "a b",
    "'\"`$(x)",
    "\u202eabc",
    "e\u0301",
    "\ufeff",
    "\U0001f5ff",
    "\u2028",
    "%s%n",
    "x" * 4096,
    "\\u0000",
    "rank-00001",
    "__metadata",
]


def test_names_that_look_like_paths_are_names(besieged: Daemon) -> None:
    raw = opened(besieged)
    assert save(raw, 1, [shard(name) for name in TRICKS]) == ("committed", "")
    # Names that Unicode holds for equal are one name.
    assert raw.error("Register", shards=[shard("e\u0301"), shard("\u00e9")]) == "InvalidShard"
    for name in ("x" * 4097, "a\0b", "a\u0085b", "a\x7fb", "", "__metadata__", "rank-00000/a", "cairn.object.00000.a"):
        assert raw.error("Register", shards=[shard(name)]) == "InvalidShard", name
    for text in (b"\xff", b"\\ud800", b"a\\udc00", b"\xc0\x80", b"\xed\xa0\x80"):
        raw.send(message("Register", shards=[shard("NAME")]).replace(b"NAME", text))
        reply = raw.receive()
        assert reply is None or "error" in reply, text
        if reply is None:
            raw = opened(besieged)
    chosen = raw.call("Choose", restore=1)["parameters"]
    raw.call("Lease", bytes=MiB)
    described = raw.call("Describe", **chosen)["parameters"]
    assert sorted(entry["name"] for entry in described["shards"]) == sorted(TRICKS)
    for name in TRICKS:
        assert raw.call("Load", **chosen, boxes=[{"name": name}])["parameters"]["placed"][0]["bytes"] == 16, name
    run = besieged.tier / "65534" / "hostile"
    assert {path.name for path in (run.parent).iterdir()} == {"hostile"}
    assert all(path.name.startswith(("step-", "attempts", ".")) for path in run.iterdir())
    raw.close()


# Anything at all.

STREAMED = {"streamed": True}
EDGES: list[Any] = [
    0, 1, -1, 2, 63, 64, 4095, 4096, 1 << 20, 1 << 31, 1 << 32, 1 << 44, 1 << 47, 1 << 53, 1 << 62, (1 << 63) - 1, 1 << 63,
    -(1 << 63), 1 << 64, 1.5, 1e308, "", "a", "..", "\u202e", "x" * 5000, None, True, [], {}, [[]], [1] * 70,
]  # fmt: skip


def mutated(value: Any, chance: random.Random) -> Any:
    """The value with some of its parts put out of shape."""
    if chance.random() < 0.06:
        return chance.choice(EDGES)
    if isinstance(value, dict):
        made = {key: mutated(part, chance) for key, part in value.items() if chance.random() > 0.02}
        if chance.random() < 0.02:
            made[chance.choice(["", "zz", "memory"])] = chance.choice(EDGES)
        return made
    if isinstance(value, list):
        made_list = [mutated(part, chance) for part in value]
        return made_list * chance.choice([1, 1, 1, 1, 0, 2, 50])
    return value


def calls(chance: random.Random, known: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A call that fits what is known of the session so far, most of the time."""
    sources: list[dict[str, Any]] = [
        {"memory": [{"address": ADDRESS, "bytes": 16}]},
        {"memory": [{"address": ADDRESS, "bytes": 8}] * 2},
        {"descriptor": 0},
        {"memory": []},
        STREAMED,
    ]
    shards = [
        shard(f"t{number}", shape=[chance.choice([4, 0, 2])], eager=chance.random() < 0.5, source=chance.choice(sources))
        for number in range(chance.randint(0, 5))
    ]
    boxes = [{"name": f"t{number}", "offsets": [0], "shape": [chance.randint(0, 4)]} for number in range(chance.randint(0, 3))]
    objects = [{"name": "o", "scope": "rank", "bytes": 16, "source": {"memory": [{"address": ADDRESS, "bytes": 16}]}}]
    pieces = [
        {"name": f"t{number}", "begin": 0, "bytes": 16, "segment": known["segment"], "offset": 16 * number}
        for number in range(chance.randint(0, 3))
    ]
    step, restore = chance.randint(0, 5), chance.randint(1, 3)
    choices: list[tuple[str, dict[str, Any]]] = [
        ("Open", {"run": known["run"], "rank": 0, "worldSize": 1, "attempt": chance.choice(["a", "b"])}),
        ("Register", {"shards": shards}),
        ("Register", {"shards": shards}),
        ("Save", {"step": step, "try": chance.randint(1, 2), "layout": known["layout"], "objects": chance.choice([[], objects]),
                  "upto": chance.choice(["staged", "local", "committed"]), "metadata": {"a": "b"}, "participants": [0]}),
        ("Save", {"step": step, "try": chance.randint(1, 9), "layout": known["layout"]}),
        ("Wait", {"save": known["save"], "level": chance.choice(["staged", "local", "committed"]), "timeoutMs": 200}),
        ("Lease", {"bytes": 4096 * chance.choice([1, 4, 100])}),
        ("Release", {"segment": known["segment"]}),
        ("Put", {"save": known["save"], "pieces": pieces}),
        ("Choose", {"restore": restore, "timeoutMs": 100}),
        ("Settle", {"restore": restore, "ok": chance.random() < 0.7}),
        ("Describe", {"step": step, "sequence": known["sequence"], "names": ["t0"]}),
        ("Load", {"step": step, "sequence": known["sequence"], "boxes": boxes, "segments": [known["segment"]]}),
        ("Steps", {"run": known["run"]}),
        ("Promote", {"step": step, "level": "committed"}),
        ("Branch", {"from": known["run"], "step": step}),
        ("Attach", {"session": known["session"]}),
        ("Close", {}),
        ("dev.cairn.Operations.Status", {}),
        ("dev.cairn.Operations.Describe", {"run": known["run"], "step": step}),
        ("dev.cairn.Operations.Pin", {"run": known["run"], "step": step}),
        ("dev.cairn.Operations.Delete", {"run": known["run"], "step": step}),
    ]  # fmt: skip
    return chance.choice(choices)


@pytest.mark.parametrize("seed", range(3 * TIMES))
def test_any_series_of_calls_is_answered_call_by_call(besieged: Daemon, seed: int) -> None:
    chance = random.Random(seed)
    run = f"any-{seed}"
    known: dict[str, Any] = {"run": run, "layout": "x", "save": "1-1-1", "segment": 1, "sequence": 1 << 32 | 1, "session": "s"}
    raws: list[Raw] = []
    shut: list[Raw] = []  # without a session
    tally: dict[str, int] = {}

    def exchange(raw: Raw, sent: bytes) -> dict[str, Any] | None:
        try:
            raw.send(sent)
        except BrokenPipeError:
            return None
        return raw.receive()

    for _ in range(600):
        if not raws or chance.random() < 0.03:
            raws.append(hostile(besieged))
            shut.append(raws[-1])
        if shut and chance.random() < 0.8:
            raw = shut.pop()
            sent = message("Open", run=run, rank=0, worldSize=1, attempt=chance.choice(["a", "b"]))
        else:
            raw = chance.choice(raws)
            method, parameters = calls(chance, known)
            if chance.random() < 0.6:
                parameters = {key: mutated(value, chance) for key, value in parameters.items() if chance.random() > 0.02}
            sent = message(method, **parameters)
        reply = exchange(raw, sent)
        if reply is None:
            raws.remove(raw)
            shut = [other for other in shut if other is not raw]
            tally["closed"] = tally.get("closed", 0) + 1
            continue
        name = reply.get("error", "").rpartition(".")[2]
        tally[name] = tally.get(name, 0) + 1
        if name == "NotOpen" and raw not in shut:
            shut.append(raw)
        for key in set(known) & set(reply.get("parameters") or {}):
            known[key] = reply["parameters"][key]
    closed(raws)
    print(dict(sorted(tally.items(), key=lambda entry: -entry[1])))
    assert tally.get("", 0) > 10, tally
    assert len(tally) > 6, tally


def leased(raw: Raw, count: int = 2 * MiB) -> int:
    """A segment; what it is mapped by stays unread here, for its content does not matter."""
    reply = raw.call("Lease", bytes=count)
    assert "error" not in reply, reply
    return int(reply["parameters"]["segment"])


def streaming(raw: Raw, step: int, shards: list[dict[str, Any]]) -> str:
    layout = raw.call("Register", shards=shards)["parameters"]["layout"]
    reply = raw.call("Save", step=step, **{"try": 1}, layout=layout)
    assert "error" not in reply, reply
    return str(reply["parameters"]["save"])


def test_pieces_that_a_save_does_not_wait_for_are_refused(besieged: Daemon) -> None:
    """Wrong in every way, then right: what was refused has changed nothing."""
    raw = opened(besieged, "pieces")
    segment = leased(raw)
    shards = [
        shard("first", dtype="F32", shape=[1000], source=STREAMED),
        shard("kept"),
        shard("second", dtype="F32", shape=[300_000], source=STREAMED),
        shard("half", dtype="F16", shape=[7], source=STREAMED),
    ]
    name = streaming(raw, 1, shards)

    def piece(name: str = "first", begin: int = 0, count: int = 4000, segment: int = segment, offset: int = 0) -> dict[str, Any]:
        return {"name": name, "begin": begin, "bytes": count, "segment": segment, "offset": offset}

    whole = [piece(), piece("second", count=1_200_000, offset=4000), piece("half", count=14, offset=1_204_000)]
    wrong: list[tuple[str, list[dict[str, Any]]]] = [
        ("InvalidShard", [piece("second", count=1_200_000)]),  # out of order
        ("InvalidShard", [piece("kept", count=16)]),  # not streamed
        ("InvalidShard", [piece("other")]),
        ("InvalidShard", [piece(count=4001)]),
        ("InvalidShard", [piece(count=0)]),
        ("InvalidShard", [piece(count=-4)]),
        ("InvalidShard", [piece(begin=-4)]),
        ("InvalidShard", [piece(begin=4, count=3996)]),  # a gap
        ("InvalidShard", [piece(begin=1 << 62)]),
        ("InvalidShard", [piece(count=(1 << 63) - 1)]),
        ("InvalidShard", [piece(offset=(1 << 63) - 1)]),
        ("InvalidShard", [piece(offset=2 * MiB - 3999)]),  # beyond the lease
        ("InvalidShard", [piece(offset=-1)]),
        ("InvalidShard", [piece(), piece()]),  # twice
        ("InvalidShard", [piece(count=2000), piece(begin=1000, count=3000)]),  # overlapping
        ("InvalidShard", [*whole, piece()]),  # more than all
        ("InvalidParameter", [piece(segment=segment + 1)]),
        ("InvalidParameter", [piece(segment=-1)]),
        ("InvalidParameter", []),
        ("TooLarge", [piece(count=1)] * 8193),
    ]
    for error, pieces in wrong:
        assert raw.error("Put", save=name, pieces=pieces) == error, pieces[:3]
    for other in ("1-1-2", "1-2-1", "2-1-1", "1-1-0", "", "x", "9" * 40):
        assert raw.error("Put", save=other, pieces=whole) == "UnknownSave"
    neighbour = opened(besieged, "pieces-2")
    assert neighbour.error("Put", save=name, pieces=whole) == "UnknownSave"
    # Another user's lease is no lease of this session.
    assert raw.error("Put", save=name, pieces=[piece(segment=leased(neighbour))]) == "InvalidParameter"
    assert raw.error("Put", save=name, pieces=whole) == ""
    assert raw.error("Put", save=name, pieces=whole) in ("InvalidShard", "UnknownSave")
    ended = raw.call("Wait", save=name, level="committed", timeoutMs=30_000)["parameters"]
    assert ended["level"] == "committed", ended
    closed([raw, neighbour])


def test_sources_that_are_streamed_and_something_else_are_refused(besieged: Daemon) -> None:
    raw = opened(besieged, "sources")
    memory = [{"address": ADDRESS, "bytes": 16}]
    for source in (STREAMED | {"memory": memory}, STREAMED | {"descriptor": 0}, STREAMED | {"offset": 0}):
        assert raw.error("Register", shards=[shard(source=source)]) == "InvalidShard"
    layout = raw.call("Register", shards=[shard(source=STREAMED)])["parameters"]["layout"]
    objects = [{"name": "o", "scope": "rank", "bytes": 4, "source": STREAMED}]
    assert raw.error("Save", step=1, **{"try": 1}, layout=layout, objects=objects) == "NotSupported"
    assert raw.error("Save", step=1, **{"try": 1}, layout=layout, copies=True) == "NotSupported"
    # Nothing of another save is put by its name.
    plain = raw.call("Register", shards=[shard()])["parameters"]["layout"]
    assert raw.error("Save", step=2, **{"try": 1}, layout=plain) == ""
    piece = {"name": "a", "begin": 0, "bytes": 16, "segment": leased(raw), "offset": 0}
    assert raw.error("Put", save="1-2-1", pieces=[piece]) in ("Failed", "UnknownSave")
    closed([raw])


def test_saves_that_are_never_put_hold_no_room(besieged: Daemon) -> None:
    """Thirty of them would be larger than the pool; the good client's saves go on, and each of these fails in its time."""
    raws = [opened(besieged, f"never-{number}") for number in range(15)]
    names = []
    for raw in raws:
        # One is never put at all, of the other half a chunk.
        for step in (1, 2):
            names.append((raw, streaming(raw, step, [shard(dtype="U8", shape=[64 * MiB], source=STREAMED)])))
    for raw, name in names[1::6]:
        segment = leased(raw)
        piece = {"name": "a", "begin": 0, "bytes": MiB, "segment": segment, "offset": 0}
        assert raw.error("Put", save=name, pieces=[piece]) == ""
    pool = status(besieged)["pool"]
    assert pool["needed"] <= 5 + 4, pool  # the good client's among them
    for raw, name in names:
        ended = raw.call("Wait", save=name, level="committed", timeoutMs=30_000)["parameters"]
        assert ended["level"] == "failed"
        assert "put nothing more" in ended["reason"]
    closed(raws)


def test_a_lease_that_is_written_and_released_while_it_is_put_harms_nobody(besieged: Daemon) -> None:
    """Also by several connections at once, and with calls that nobody waits for the answers of."""
    for attempt in range(5 * TIMES):
        raw = opened(besieged, f"racing-{attempt}")
        segment = leased(raw)
        name = streaming(raw, 1, [shard(dtype="U8", shape=[40 * MiB], source=STREAMED)])
        others = []
        for _ in range(4):
            other = hostile(besieged)
            assert other.error("Attach", session=raw.token) == ""
            others.append(other)
        for number in range(60):
            put = {"name": "a", "begin": number // 3 * 2 * MiB, "bytes": 2 * MiB, "segment": segment, "offset": 0}
            others[number % 4].send(message("Put", save=name, pieces=[put]))
        raw.send(message("Release", segment=segment))
        if attempt % 2:
            closed([raw])
        else:
            assert raw.receive() is not None
        closed([raw, *others])
