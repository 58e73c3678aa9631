"""One connection to the daemon: NUL-terminated JSON, one reply after the other, descriptors by SCM_RIGHTS.

A connection that timed out or broke is closed for good: a late reply would be taken for the next call's.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import errors, limits

CHECKPOINT = "dev.cairn.Checkpoint."
OPERATIONS = "dev.cairn.Operations."

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def frame(method: str, parameters: Mapping[str, Any], *, more: bool = False, oneway: bool = False) -> bytes:
    """The bytes of one call. Parameters that are None are left out, as Varlink's optional fields are."""
    message: dict[str, Any] = {
        "method": method,
        "parameters": {key: value for key, value in parameters.items() if value is not None},
    }
    if more:
        message["more"] = True
    if oneway:
        message["oneway"] = True
    return _encode(message).encode("utf-8", "surrogatepass") + b"\0"


class Splitter:
    """Cuts a stream into messages; each byte is looked at once."""

    def __init__(self, limit: int = limits.REPLY_BYTES) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._limit = limit

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def pending(self) -> bool:
        return bool(self._buffer)

    def next(self) -> bytes | None:
        """The next whole message without its NUL, or None."""
        end = self._buffer.find(b"\0", self._seen)
        if end < 0:
            self._seen = len(self._buffer)
            if self._seen > self._limit:
                raise errors.ProtocolError(f"a reply of more than {self._limit} bytes")
            return None
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._seen = 0
        return message


class Connection:
    """A stream socket to the daemon. Calls are one at a time: the owner serialises them."""

    def __init__(self, path: str, *, timeout: float = limits.CONNECT_SECONDS) -> None:
        self.path = path
        self.dead = False
        self.message_bytes: int | None = None
        """The longest message that the daemon takes; beyond it, it would hang up."""
        self._splitter = Splitter()
        self._descriptors: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
        except OSError as failure:
            self._socket.close()
            raise errors.Unavailable(
                f"no daemon answers at '{path}': {failure.strerror or failure}. Start it with `systemctl start cairnd` or "
                "`cairnd`, or point CAIRN_SOCKET at it"
            ) from failure

    def peer_pid(self) -> int:
        """The daemon's process id, or 0 where it lives in another pid namespace."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], "little", signed=True)

    def is_hung_up(self) -> bool:
        """Whether the daemon is gone, told without a call."""
        poll = select.poll()
        number = self._socket.fileno()
        if number < 0:
            return True
        poll.register(number, select.POLLRDHUP)
        return bool(poll.poll(0))

    def call(
        self,
        method: str,
        parameters: Mapping[str, Any],
        *,
        timeout: float = limits.CALL_SECONDS,
        descriptors: Sequence[int] = (),
        going: Callable[[], object] | None = None,
    ) -> dict[str, Any]:
        """Send one call and return its reply's parameters.

        Args:
            timeout: seconds without a reply until the call fails.
            going: returns a value that changes as the call makes progress; each change grants another ``timeout``.
        Raises:
            WireError: the daemon answered with an error.
            Unavailable: the connection broke or nothing came in time; it is closed then.
        """
        try:
            self.send(method, parameters, timeout=timeout, descriptors=descriptors)
            return self.receive(timeout=timeout, going=going)[0]
        except errors.CairnError:
            raise
        except BaseException:  # as ^C: the reply is still to come
            self.shutdown()
            raise

    def send(
        self,
        method: str,
        parameters: Mapping[str, Any],
        *,
        more: bool = False,
        oneway: bool = False,
        timeout: float = limits.CALL_SECONDS,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send one call; ``oneway``: the daemon does not answer it."""
        data = frame(method, parameters, more=more, oneway=oneway)
        if self.message_bytes is not None and len(data) > self.message_bytes:
            raise errors.TooLarge(CHECKPOINT + "TooLarge", {"bytes": len(data), "limit": self.message_bytes})
        try:
            self._socket.settimeout(timeout)
            if descriptors:
                rights = array.array("i", descriptors)
                sent = self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                data = data[sent:]
            if data:  # else sendall() would send nothing once more: EPIPE where the daemon has answered and hung up by then
                self._socket.sendall(data)
        except OSError as failure:
            raise self._broken(f"sending {method}", failure) from failure

    def receive(self, *, timeout: float | None, going: Callable[[], object] | None = None) -> tuple[dict[str, Any], bool]:
        """The next reply's parameters, and whether more follow. A timeout of None waits until the connection ends."""
        mark = going() if going else None
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self._splitter.next()
            if message is not None:
                return self._decode(message)
            try:
                self._fill(None if deadline is None else max(0.001, deadline - time.monotonic()))
            except TimeoutError as failure:
                now = going() if going else None
                if timeout is not None and going is not None and now != mark:
                    mark, deadline = now, time.monotonic() + timeout
                    continue
                raise self._broken("waiting for a reply", failure) from failure
            except OSError as failure:
                raise self._broken("waiting for a reply", failure) from failure

    def has_input(self) -> bool:
        """Whether ``receive`` would find something, or the end, without waiting for it to begin."""
        poll = select.poll()
        number = self._socket.fileno()
        if self._splitter.pending or number < 0:
            return True
        poll.register(number, select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))

    def take_descriptors(self) -> list[int]:
        """The descriptors received so far; the caller owns them."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def shutdown(self) -> None:
        """Hang up now, in both directions, whatever another thread does with the socket: the daemon sees it at once."""
        self.dead = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # hung up already

    def close(self) -> None:
        """Only close this process's descriptor; a parent's copy stays as it is."""
        self._socket.close()
        for descriptor in self.take_descriptors():
            os.close(descriptor)

    def _fill(self, timeout: float | None) -> None:
        self._socket.settimeout(timeout)
        data, rights, _, _ = self._socket.recvmsg(1 << 18, socket.CMSG_SPACE(16 * 4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        self._splitter.feed(data)

    def _decode(self, message: bytes) -> tuple[dict[str, Any], bool]:
        try:
            reply = json.loads(message)
            parameters = reply.get("parameters") or {}
            error = reply.get("error")
            continues = bool(reply.get("continues", False))
            if not isinstance(parameters, dict):
                raise TypeError("parameters are no object")
        except (ValueError, AttributeError, TypeError) as failure:
            self.shutdown()
            raise errors.ProtocolError(f"not a Varlink reply: {message[:80]!r}") from failure
        if error:
            raise errors.from_wire(str(error), parameters)
        return parameters, continues

    def _broken(self, doing: str, failure: OSError) -> errors.Unavailable:
        # The watch thread closes what the daemon has hung up: what the kernel says of such a descriptor tells nobody anything.
        why = "the daemon has hung up" if self._socket.fileno() < 0 else failure.strerror or failure
        self.shutdown()
        return errors.Unavailable(f"{doing}: {why}")
