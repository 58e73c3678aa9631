"""Framing, typed errors, and the attempt's token."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

import cairn
from cairn import attempt, errors
from cairn.wire import Connection, Splitter, frame


def test_messages_are_cut_at_nul_wherever_the_stream_is_cut() -> None:
    stream = b"".join(json.dumps({"n": number}).encode() + b"\0" for number in range(20))
    for size in (1, 2, 7, len(stream)):
        splitter, found = Splitter(), []
        for begin in range(0, len(stream), size):
            splitter.feed(stream[begin : begin + size])
            while (message := splitter.next()) is not None:
                found.append(json.loads(message)["n"])
        assert found == list(range(20))


def test_an_endless_reply_is_refused() -> None:
    splitter = Splitter(limit=100)
    splitter.feed(b"x" * 101)
    with pytest.raises(cairn.ProtocolError):
        splitter.next()


def test_absent_fields_are_left_out() -> None:
    assert json.loads(frame("a.B", {"x": None, "y": 0})[:-1]) == {"method": "a.B", "parameters": {"y": 0}}
    assert json.loads(frame("a.B", {}, more=True)[:-1])["more"] is True


def test_errors_of_the_wire_are_typed() -> None:
    error = errors.from_wire("dev.cairn.Checkpoint.NoSpace", {"tier": "local", "needed": 2, "available": 1})
    assert type(error) is cairn.NoSpace
    assert error.parameters["tier"] == "local"
    assert "needed=2" in str(error)
    for name in ("org.varlink.service.MethodNotFound", "dev.cairn.Checkpoint.OfTheFuture"):
        assert type(errors.from_wire(name, {})) is cairn.WireError


def served(folder: Path, answer: bytes) -> str:
    path = str(folder / "s")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)

    def run() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(100)
            if answer:
                peer.sendall(answer)
            else:
                peer.recv(100)  # until the client hangs up

    threading.Thread(target=run, daemon=True).start()
    return path


@pytest.mark.parametrize("answer", [b"\xff\0", b"[]\0", b'{"parameters":3}\0', b"null\0", b'"x"\0'])
def test_what_is_no_reply_ends_the_connection(tmp_path: Path, answer: bytes) -> None:
    connection = Connection(served(tmp_path, answer))
    with pytest.raises(cairn.ProtocolError):
        connection.call("a.B", {})
    assert connection.dead
    connection.close()


def test_a_silent_or_closing_daemon_is_unavailable(tmp_path: Path) -> None:
    connection = Connection(served(tmp_path, b""))
    with pytest.raises(cairn.Unavailable):
        connection.call("a.B", {}, timeout=0.05)
    assert connection.dead
    connection.close()
    (tmp_path / "s").unlink()
    connection = Connection(served(tmp_path, b'{"parameters"'))
    with pytest.raises(cairn.Unavailable, match="closed"):
        connection.call("a.B", {}, timeout=5)
    connection.close()
    with pytest.raises(cairn.Unavailable, match="CAIRN_SOCKET"):
        Connection(str(tmp_path / "nobody"))


def test_a_peer_that_answers_and_closes_at_once_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stager's socket does: one call with a descriptor, one reply, and it closes, here before sendmsg() is back."""
    path, closed = str(tmp_path / "s"), threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        socket.recv_fds(peer, 4096, 1)
        peer.sendall(b"{}\0")
        peer.close()
        closed.set()

    class Slow(socket.socket):
        def sendmsg(self, *arguments: object) -> int:
            sent: int = super().sendmsg(*arguments)  # type: ignore[arg-type]
            assert closed.wait(10)
            return sent

    with socket.socket(socket.AF_UNIX) as listener, open(path + ".file", "wb") as file:
        listener.bind(path)
        listener.listen()
        monkeypatch.setattr(socket, "socket", Slow)
        server = threading.Thread(target=serve)
        server.start()
        assert Connection(path).call("a.B", {}, descriptors=[file.fileno()]) == {}
        server.join()


def test_the_socket_is_where_the_daemon_puts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    own = tmp_path / ".local/state/cairn/cairn.sock"
    if not Path("/run/cairn/cairn.sock").exists():
        assert cairn.default_socket() == str(own)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        assert cairn.default_socket() == str(own)
        (tmp_path / "run/cairn").mkdir(parents=True)
        (tmp_path / "run/cairn/cairn.sock").touch()
        assert cairn.default_socket() == str(tmp_path / "run/cairn/cairn.sock")
    monkeypatch.setenv("CAIRN_SOCKET", "/elsewhere")
    assert cairn.default_socket() == "/elsewhere"


def test_the_token_is_named_drawn_or_slurms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "_drawn", {})
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    drawn = attempt.token(0, 1)
    assert len(drawn) == 32
    assert attempt.token(0, 1) == drawn
    with pytest.raises(cairn.NoAttempt, match="CAIRN_ATTEMPT"):
        attempt.token(0, 2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert attempt.token(0, 2) == "slurm-7-0-3"
    monkeypatch.setenv("CAIRN_ATTEMPT", "mine")
    assert attempt.token(1, 2) == "mine"


def test_ranks_agree_on_a_token_over_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    tokens = []
    for _ in range(2):  # a second launch on the same store gets another token
        found: dict[int, str] = {}

        def rank(number: int, found: dict[int, str] = found) -> None:
            found[number] = attempt._over_store(torch.distributed, "127.0.0.1", store.port, number, 3)

        threads = [threading.Thread(target=rank, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert set(found) == {0, 1, 2}
        assert len(set(found.values())) == 1
        tokens.append(found[0])
    assert tokens[0] != tokens[1]


def test_tries_and_restores_are_counted_per_attempt() -> None:
    counters = attempt.counters("token", 2, "run", 0, "/s")
    assert [counters.next_try(5), counters.next_try(5), counters.next_try(6)] == [1, 2, 1]
    assert [counters.next_restore(None), counters.next_restore(None)] == [1, 1]
    counters.restored(agreed=True)
    assert counters.next_restore(None) == 2
    assert attempt.counters("token", 2, "run", 0, "/s") is counters
    others = [
        ("another", 2, "run", 0, "/s"),
        ("token", 3, "run", 0, "/s"),
        ("token", 2, "run", 1, "/s"),
        ("token", 2, "run", 0, "/t"),
    ]
    for other in others:
        assert attempt.counters(*other).next_try(5) == 1
        assert attempt.counters(*other).next_restore(None) == 1


def test_a_restore_of_another_step_is_another_restore() -> None:
    """One rank was interrupted in restore(a), the other came to its end; then both go for b, or both for a again."""
    interrupted, ended = attempt.Counters(), attempt.Counters()
    assert interrupted.next_restore(7) == ended.next_restore(7) == 1
    ended.restored(agreed=False)
    assert interrupted.next_restore(5) == ended.next_restore(5) == 2
    assert interrupted.next_restore(5) == 2
    interrupted.restored(agreed=True)
    ended.restored(agreed=True)
    assert interrupted.next_restore(None) == ended.next_restore(None) == 3


def test_tries_of_ranks_are_at_one_after_a_restore() -> None:
    one, other = attempt.Counters(), attempt.Counters()
    one.next_try(5)
    for counters in (one, other):
        for _ in range(2):
            counters.next_restore(None)
            counters.restored(agreed=True)
    assert one.next_try(5) == other.next_try(5) == attempt.Counters.TRIES + 1


def test_a_step_saved_before_the_first_restore_has_another_try_after_it() -> None:
    counters = attempt.Counters()
    counters.next_try(5)
    counters.next_restore(None)
    counters.restored(agreed=True)
    assert counters.next_try(5) == 2


def test_a_process_that_is_new_in_an_attempt_goes_on_after_the_others() -> None:
    fresh, old = attempt.Counters(), attempt.Counters()
    for _ in range(3):
        old.next_restore(None)
        old.restored(agreed=True)
    old.next_try(7)
    fresh.joined(3)
    old.joined(3)
    assert fresh.next_restore(None) == old.next_restore(None) == 4
    for counters in (fresh, old):
        counters.restored(agreed=True)
    assert fresh.next_try(7) == old.next_try(7)
