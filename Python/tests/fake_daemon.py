"""A daemon in this process, for tests of the client alone: it keeps saves in memory and can be made to misbehave.

It speaks the wire of dev.cairn.Checkpoint as far as the client uses it, for one rank.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cairn
from cairn.dtypes import BYTES

Opener = Callable[..., cairn.Checkpointer]
PREFIX = "dev.cairn.Checkpoint."


class Refusal(Exception):
    def __init__(self, error: str, /, **parameters: Any) -> None:
        super().__init__(error)
        self.name, self.parameters = error, parameters


class FakeDaemon:
    """Knobs: ``hold`` keeps lazy shards unstaged until ``release_now``; ``refuse`` answers Save with an error; ``mute`` not at all."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "cairn.sock")
        self.fence_ms = 30_000
        self.lease_bytes = 1 << 20
        self.hold = False
        self.mute = False
        self.refuse: Refusal | None = None
        self.corrupt_steps: set[int] = set()
        self.calls: list[str] = []
        self.registered: list[list[dict[str, Any]]] = []
        self.saves: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        self.session = 0
        self.hung_up_before_staged = False
        self.release_now = threading.Event()
        self.leases: list[mmap.mmap] = []
        self._layouts: dict[str, list[dict[str, Any]]] = {}
        self._watchers: list[tuple[socket.socket, threading.Lock]] = []
        self._sockets: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """As a crash: sockets go, saves stay (as what is on disk would)."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._sockets.clear()
        self._watchers.clear()
        self._layouts.clear()

    def event(self, save: str, level: str, reason: str | None = None) -> None:
        entry = self.saves[save]
        entry["level"] = level
        body: dict[str, Any] = {
            "run": "run", "save": save, "step": entry["step"], "rank": 0, "level": level, "bytes": 1, "totalBytes": 1,
            "monotonicNs": 1,
        }  # fmt: skip
        if reason:
            body["reason"] = reason
        for watcher in list(self._watchers):
            try:
                self._reply(*watcher, {"event": body}, continues=True)
            except OSError:
                self._watchers.remove(watcher)  # it hung up

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer, lock = b"", threading.Lock()
        while True:
            try:
                data = connection.recv(1 << 20)
            except OSError:
                return
            if not data:
                return
            buffer += data
            while b"\0" in buffer:
                message, _, buffer = buffer.partition(b"\0")
                call = json.loads(message)
                self.calls.append(call["method"].rpartition(".")[2])
                try:
                    method = getattr(self, "do_" + call["method"].rpartition(".")[2].lower())
                    method(connection, lock, **call["parameters"])
                except Refusal as refusal:
                    self._send(connection, lock, {"error": PREFIX + refusal.name, "parameters": refusal.parameters})
                except OSError:
                    return

    def _send(self, connection: socket.socket, lock: threading.Lock, body: dict[str, Any], rights: int | None = None) -> None:
        data = json.dumps(body).encode() + b"\0"
        with lock:
            if rights is not None:
                socket.send_fds(connection, [data], [rights])
            else:
                connection.sendall(data)

    def _reply(self, connection: socket.socket, lock: threading.Lock, parameters: Any, *, continues: bool = False) -> None:
        self._send(connection, lock, {"parameters": parameters, "continues": continues})

    def do_open(self, connection: Any, lock: Any, **_: Any) -> None:
        self.session += 1
        self.calls_socket = connection
        limits = {"fenceMs": self.fence_ms}
        self._reply(connection, lock, {"session": str(self.session), "node": "n", "memory": False, "limits": limits})

    def do_attach(self, connection: Any, lock: Any, **_: Any) -> None:
        self._reply(connection, lock, {})

    def do_close(self, connection: Any, lock: Any) -> None:
        self._reply(connection, lock, {})

    def do_watch(self, connection: Any, lock: Any, **_: Any) -> None:
        self._watchers.append((connection, lock))

    def do_register(self, connection: Any, lock: Any, shards: list[dict[str, Any]]) -> None:
        for shard in shards:
            size = BYTES[shard["dtype"]]
            for length in shard["shape"]:
                size *= length
            assert size == sum(extent["bytes"] for extent in shard["source"]["memory"]), shard
        self.registered.append(shards)
        name = f"L{len(self.registered)}"
        self._layouts[name] = shards
        self._reply(connection, lock, {"layout": name, "bytes": 0})

    def do_save(
        self, connection: Any, lock: Any, step: int, layout: str, objects: list[dict[str, Any]], upto: str, **rest: Any
    ) -> None:
        if self.mute:
            return
        if self.refuse is not None:
            raise self.refuse
        if layout not in self._layouts:
            raise Refusal("UnknownLayout", layout=layout)
        shards = self._layouts[layout]
        save = f"1-{step}-{rest['try']}"
        entry = self.saves[save] = {
            "step": step,
            "level": "accepted",
            "shards": shards,
            "objects": objects,
            "bytes": {},
            "upto": upto,
        }
        entry["metadata"] = rest.get("metadata") or {}
        self.order.append(save)
        for item in objects + [shard for shard in shards if shard.get("eager", True)]:
            entry["bytes"][item["name"]] = self._read(item)
        self._reply(connection, lock, {"save": save, "bytes": 1})
        threading.Thread(target=self._stage, args=(save, self.calls_socket), daemon=True).start()

    def _stage(self, save: str, calls: socket.socket) -> None:
        entry = self.saves[save]
        if self.hold:
            self.release_now.wait(20)
        for shard in entry["shards"]:
            if not shard.get("eager", True):
                entry["bytes"][shard["name"]] = self._read(shard)
        try:
            if calls.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                self.hung_up_before_staged = True
                entry["level"] = "failed"
                return
        except BlockingIOError:
            pass
        except OSError:
            return
        for level in ("staged", "local", "global", "committed"):
            self.event(save, level)
            if level == entry["upto"]:
                return

    @staticmethod
    def _read(item: dict[str, Any]) -> bytes:
        return b"".join(ctypes.string_at(extent["address"], extent["bytes"]) for extent in item["source"]["memory"])

    def do_wait(self, connection: Any, lock: Any, save: str, level: str, **_: Any) -> None:
        if save not in self.saves:
            raise Refusal("UnknownSave", save=save)
        self._reply(connection, lock, {"level": self.saves[save]["level"]})

    def _newest(self, skip: set[int]) -> str:
        for save in reversed(self.order):
            if self.saves[save]["level"] == "committed" and self.saves[save]["step"] not in skip:
                return save
        raise Refusal("NoSuchStep")

    def do_steps(self, connection: Any, lock: Any, run: str) -> None:
        steps = [
            {"step": self.saves[s]["step"], "sequence": index, "level": self.saves[s]["level"], "superseded": False}
            for index, s in enumerate(self.order)
        ]
        self._reply(connection, lock, {"steps": steps[::-1]})

    def do_choose(self, connection: Any, lock: Any, restore: int, step: int | None = None, **_: Any) -> None:
        save = self._newest(self.failed_steps if restore > 1 else set())
        if step is not None:
            known = [s for s in self.order if self.saves[s]["step"] == step and step not in self.failed_steps]
            if not known:
                raise Refusal("NoSuchStep", step=step)
            save = known[-1]
        self._chosen = save
        self._reply(connection, lock, {"step": self.saves[save]["step"], "sequence": self.order.index(save)})

    failed_steps: set[int] = set()  # noqa: RUF012

    def do_settle(self, connection: Any, lock: Any, restore: int, ok: bool, **_: Any) -> None:
        if not ok:
            self.failed_steps = self.failed_steps | {self.saves[self._chosen]["step"]}
        self._reply(connection, lock, {"again": not ok})

    def do_describe(self, connection: Any, lock: Any, sequence: int, names: list[str] | None = None, **_: Any) -> None:
        entry = self.saves[self.order[sequence]]
        keep = (lambda item: item["name"] in names) if names is not None else (lambda item: True)
        shards = [shard | {"rank": 0} for shard in entry["shards"] if keep(shard)]
        objects = [item | {"rank": 0} for item in entry["objects"] if keep(item)]
        world = entry.get("worldSize", 1)
        self._reply(connection, lock, {"worldSize": world, "shards": shards, "objects": objects, "metadata": {}})

    def do_lease(self, connection: Any, lock: Any, bytes: int) -> None:
        if bytes > self.lease_bytes:
            raise Refusal("TooLarge", bytes=bytes, limit=self.lease_bytes)
        size = bytes
        descriptor = os.memfd_create("lease")
        os.ftruncate(descriptor, size)
        self.leases.append(mmap.mmap(descriptor, size))
        self._send(connection, lock, {"parameters": {"segment": len(self.leases) - 1, "bytes": size}}, descriptor)
        os.close(descriptor)

    def do_release(self, connection: Any, lock: Any, segment: int) -> None:
        self._reply(connection, lock, {})

    def do_load(self, connection: Any, lock: Any, step: int, sequence: int, boxes: list[dict[str, Any]]) -> None:
        entry = self.saves[self.order[sequence]]
        if step in self.corrupt_steps:
            raise Refusal("Corrupt", path="x", block=1)
        segment, used, placed = len(self.leases) - 2, 0, []
        for box in boxes:
            data = entry["bytes"][box["name"]]
            if "offsets" in box:
                data = self._slice(entry, box, data)
            begin = 0
            while begin < len(data):  # pieces may be cut at a lease's end
                part = data[begin : begin + len(self.leases[segment]) - used]
                if not part:
                    segment, used = segment + 1, 0
                    continue
                self.leases[segment][used : used + len(part)] = part
                placed.append({"name": box["name"], "begin": begin, "bytes": len(part), "segment": segment, "offset": used})
                begin += len(part)
                used += len(part)
        self._reply(connection, lock, {"tier": "memory", "placed": placed})

    @staticmethod
    def _slice(entry: dict[str, Any], box: dict[str, Any], data: bytes) -> bytes:
        import numpy

        item = next((s for s in entry["shards"] if s["name"] == box["name"]), {"dtype": "U8", "shape": [len(data)]})
        array = numpy.frombuffer(data, dtype=f"V{BYTES[item['dtype']]}").reshape(item["shape"])
        where = tuple(slice(o, o + n) for o, n in zip(box["offsets"], box["shape"], strict=True))
        return array[where].tobytes()


def short_folder() -> Path:
    """A Unix socket's path has at most 107 bytes; pytest's own folders can be longer."""
    return Path(tempfile.mkdtemp(prefix="cairn-"))
