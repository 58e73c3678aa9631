"""Ranks of one job as processes of their own, told what to do line by line (JSON) on standard input.

As a program: `ranks.py RANK WORLD SOCKET RUN BYTES FILE PLAIN|SHARDED`. BYTES are those of the whole job; each rank has its part,
the rows of a DTensor over all ranks where it is SHARDED (FILE is then the process group's meeting point).
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from daemon import Daemon

BENCHMARKS = Path(__file__).resolve().parent
ANSWER_SECONDS = 240.0


class Ranks:
    def __init__(self, folder: Path, daemon: Daemon, run: str, count: int, size: int, *, sharded: bool = False) -> None:
        self._ranks: list[subprocess.Popen[str]] = []
        self._command = [
            [sys.executable, str(Path(__file__).resolve()), str(rank), str(count), str(daemon.socket), run, str(size),
             str(folder / "group"), "SHARDED" if sharded else "PLAIN"]
            for rank in range(count)
        ]  # fmt: skip

    def __enter__(self) -> Ranks:
        for command in self._command:
            self._ranks.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        self._hear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for rank in self._ranks:
            if kind is not None:
                rank.kill()
            elif rank.stdin is not None:
                rank.stdin.close()
        for rank in self._ranks:
            try:
                rank.wait(timeout=60)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()

    def ask(self, *command: Any) -> list[dict[str, Any]]:
        """All are told, then heard, in rank order."""
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(json.dumps(command) + "\n")
            rank.stdin.flush()
        return self._hear()

    def _hear(self) -> list[dict[str, Any]]:
        answers = []
        for rank in self._ranks:
            assert rank.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(rank.stdout, selectors.EVENT_READ)
                if not selector.select(ANSWER_SECONDS):
                    raise RuntimeError(f"a rank did not answer within {ANSWER_SECONDS:.0f} s")
            line = rank.stdout.readline()
            if not line:
                raise RuntimeError("a rank has ended; what it said is above")
            answers.append(json.loads(line))
        return answers


def main() -> None:
    sys.path.insert(0, str(BENCHMARKS.parent / "Python"))
    import torch
    from workload import State, training_state

    import cairn

    rank, world, size = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[5])
    socket, run, meeting, sharded = sys.argv[3], sys.argv[4], sys.argv[6], sys.argv[7] == "SHARDED"
    torch.set_num_threads(1)
    if sharded:
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard

        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", (world,))
        state = training_state(size, part=world, wrap=lambda tensor: DTensor.from_local(tensor, mesh, [Shard(0)]))
    else:
        state = training_state(size // world)
    attempt = f"{run}-{world}"
    ckpt = cairn.Checkpointer(
        run, rank=rank, world_size=world, local_rank=rank, local_world_size=world, socket=socket, attempt=attempt,
        on_unavailable="raise", on_failure="raise",
    )  # fmt: skip
    saved: list[cairn.Save] = []

    def answer(**figures: Any) -> None:
        print(json.dumps(figures), flush=True)

    def restore(state: State) -> float:
        """Its tensors only: plain values are each rank's own."""
        state.forget()
        began = time.monotonic()
        if ckpt.restore(state.tensors, objects="skip") is None:
            raise SystemExit("there is nothing to restore")
        return time.monotonic() - began

    answer(ready=1)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == "save":
            began = time.monotonic()
            saved.append(ckpt.save(arguments[0], state.tensors, lazy=True))
            answer(call=time.monotonic() - began, sums=state.sums() if sharded else [])
        elif name == "finish":
            with ckpt.lock():
                pass
            reached = {level: saved[-1].wait(level, timeout=ANSWER_SECONDS) for level in ("staged", "local", "committed")}
            answer(**{level: at.monotonic_ns / 1e9 for level, at in reached.items()})
        elif name == "restore":
            answer(loaded=restore(state), sums=state.sums(), bytes=state.bytes)
    ckpt.close()
    sys.stdout.flush()
    os._exit(0)  # not by the interpreter's end: a thread of Gloo may abort the process there (pytorch #179291)


if __name__ == "__main__":
    main()
