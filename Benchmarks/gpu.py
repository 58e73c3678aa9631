"""What a save of tensors on a GPU costs the training that goes on: Cairn's streamed path, a plain pinned copy, DCP's async_save.

    CAIRN_BIN=.build/release python Benchmarks/gpu.py --mib 8192                    # a GPU: about 4 minutes
    CAIRN_BIN=.build/release python Benchmarks/gpu.py --device cpu --mib 512        # the same path without one

It starts a cairnd of its own, whose pool is a quarter of the state where --pool does not say otherwise, and prints for each way,
as medians:
  call      seconds until the call that saves has returned
  update    seconds of the CPU from the end of the step that follows until the optimizer may change tensors (the fence)
  lost      seconds by which that step and its update took longer than one without a save, with the GPU's work done
  staged    seconds until the copy in host memory was whole; durable: until the checkpoint was written and synced
  idle      the rate of staging where nothing trains meanwhile, also as a share of the plain copy's
The state lies in tensors of 32 MiB; a step multiplies matrices for --step seconds and ends with an update of every tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import Daemon
from process import ROOT, prepare

MIB = 1 << 20
TENSOR = 32 * MIB
ROUNDS = 5
POOL_SHARE = 4


@dataclass
class Saving:
    """A save under way: what the update waits for, and what tells when the copy is whole and the checkpoint durable."""

    fence: Callable[[], None]
    staged: Callable[[], object]
    durable: Callable[[], object]
    clean: Callable[[], None] = lambda: None


class Training:
    """Tensors, and steps that leave them as they are, so that every way saves the same."""

    def __init__(self, device: str, mib: int, seconds: float) -> None:
        import torch

        self.torch, self.device = torch, torch.device(device)
        count = max(1, mib * MIB // TENSOR)
        self.state = {f"layer.{index}": torch.randn(TENSOR // 4, device=self.device) for index in range(count)}
        self.bytes = count * TENSOR
        size = 4096 if self.is_gpu else 512
        self._matrix = torch.randn(size, size, device=self.device)
        self._products = 1
        while (took := self._timed(self._multiply)) < seconds:
            self._products = max(self._products + 1, int(self._products * min(8.0, seconds / max(took, 1e-4))))

    @property
    def is_gpu(self) -> bool:
        return bool(self.device.type == "cuda")

    def settle(self) -> None:
        if self.is_gpu:
            self.torch.cuda.synchronize(self.device)

    def step(self) -> None:
        self._multiply()

    def update(self) -> None:
        self.torch._foreach_mul_(list(self.state.values()), 1.0)

    def _multiply(self) -> None:
        product = self._matrix
        for _ in range(self._products):
            product = product @ self._matrix
            product = product / product.norm()

    def _timed(self, work: Callable[[], None]) -> float:
        work()
        self.settle()
        begin = time.perf_counter()
        work()
        self.settle()
        return time.perf_counter() - begin


def measure(training: Training, save: Callable[[int], Saving]) -> dict[str, float]:
    """Medians over ROUNDS; two saves before them are not counted."""
    rows: list[dict[str, float]] = []
    for round_number in range(ROUNDS + 2):
        training.settle()
        begin = time.perf_counter()
        training.step()
        training.update()
        training.settle()
        alone = time.perf_counter() - begin
        begin = time.perf_counter()
        saving = save(round_number)
        called = time.perf_counter()
        staged: Future[float] = Future()
        _when(saving.staged, staged)
        training.step()
        stepped = time.perf_counter()
        saving.fence()
        fenced = time.perf_counter()
        training.update()
        training.settle()
        over = time.perf_counter()
        copied = staged.result(timeout=120) - begin
        saving.durable()
        rows.append(
            {"call": called - begin, "update": fenced - stepped, "lost": over - begin - alone, "staged": copied}
            | {"durable": time.perf_counter() - begin, "alone": alone}
        )
        saving.clean()
    idle = []
    for round_number in range(ROUNDS):
        training.settle()
        begin = time.perf_counter()
        saving = save(ROUNDS + 2 + round_number)
        saving.fence()
        saving.staged()
        idle.append(time.perf_counter() - begin)
        saving.durable()
        saving.clean()
    return {key: statistics.median(row[key] for row in rows[2:]) for key in rows[0]} | {"idle": statistics.median(idle)}


def _when(wait: Callable[[], object], told: Future[float]) -> None:
    """Note when ``wait`` returns, in a thread that does nothing else."""

    def run() -> None:
        wait()
        told.set_result(time.perf_counter())

    threading.Thread(target=run, daemon=True).start()


def pinned_copy(training: Training) -> float:
    """Seconds of the plainest copy to the host: into pinned memory that is there, tensor by tensor, and one wait."""
    torch = training.torch
    target = torch.empty(TENSOR // 4, pin_memory=training.is_gpu)
    target.zero_()
    times = []
    for _ in range(ROUNDS):
        training.settle()
        begin = time.perf_counter()
        for tensor in training.state.values():
            target.copy_(tensor, non_blocking=True)
        training.settle()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def with_cairn(training: Training, daemon: Daemon, *, streamed: bool, ring: int) -> dict[str, float]:
    import cairn

    options: dict[str, Any] = {"streamed": True} if streamed and not training.is_gpu else {}
    options |= {"on_failure": "raise", "on_unavailable": "raise", "ring_bytes": ring}
    with cairn.Checkpointer(f"gpu-{streamed}-{ring}", socket=daemon.socket, **options) as point:

        def save(number: int) -> Saving:
            saved = point.save(number, training.state, lazy=True)

            def fence() -> None:
                with point.lock():
                    pass

            return Saving(fence, lambda: saved.staged.result(120), lambda: saved.wait(timeout=120), daemon.drop_deleted)

        return measure(training, save)


def with_dcp(training: Training, folder: Path) -> dict[str, float]:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=training.is_gpu, use_shared_memory=training.is_gpu, use_async_staging=True,
            use_non_blocking_copy=training.is_gpu,
        )
    )  # fmt: skip

    def save(number: int) -> Saving:
        target = folder / f"step-{number}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer: Any = dcp.async_save(
                training.state,
                storage_writer=dcp.FileSystemWriter(target, single_file_per_rank=True, sync_files=True, thread_count=4),
                async_stager=stager,
                no_dist=True,
            )
        wait = answer.staging_completion.result
        return Saving(lambda: wait(), wait, answer.upload_completion.result, lambda: shutil.rmtree(target, ignore_errors=True))

    try:
        return measure(training, save)
    finally:
        stager.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--mib", type=int, default=8192, help="of the state")
    parser.add_argument("--pool", type=int, help=f"MiB of the daemon's pool; default: one in {POOL_SHARE} of the state")
    parser.add_argument("--step", type=float, default=0.5, help="seconds of a step's computation")
    parser.add_argument("--rings", type=int, nargs="+", default=[64, 1024], help="MiB of the ring, each measured")
    parser.add_argument("--folder", type=Path, help="where checkpoints go; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    prepare()
    import torch

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device: --device cpu measures the same path without one", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    torch.manual_seed(1)
    binaries = Path(os.environ.get("CAIRN_BIN", ROOT / ".build" / "release"))
    folder = Path(tempfile.mkdtemp(prefix="cairn-gpu-", dir=arguments.folder))
    training = Training(arguments.device, arguments.mib, arguments.step)
    rows: dict[str, dict[str, float]] = {}
    try:
        copy = pinned_copy(training)
        name = torch.cuda.get_device_name(training.device) if training.is_gpu else "CPU tensors"
        what = "pinned copy" if training.is_gpu else "memcpy"
        print(f"{name}, {training.bytes / MIB:.0f} MiB; {what} {copy:.3f} s, {training.bytes / copy / 1e9:.2f} GB/s")
        pool = (arguments.pool or arguments.mib // POOL_SHARE) * MIB
        with Daemon(binaries, folder / "daemon", pool=pool, tiers=("local",)) as daemon:
            print(f"pool {daemon.pool / MIB:.0f} MiB")
            for ring in arguments.rings:
                rows[f"cairn, ring {ring} MiB"] = with_cairn(training, daemon, streamed=True, ring=ring * MIB)
                tell(rows, training, copy)
            if not training.is_gpu:
                rows["cairn, lazy"] = with_cairn(training, daemon, streamed=False, ring=64 * MIB)
                tell(rows, training, copy)
        rows["dcp.async_save"] = with_dcp(training, folder)
        tell(rows, training, copy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json is not None:
        found = {"device": name, "bytes": training.bytes, "copySeconds": copy, "ways": rows}
        arguments.json.write_text(json.dumps(found, indent=1))
    return 0


def tell(rows: dict[str, dict[str, float]], training: Training, copy: float) -> None:
    way, row = next(reversed(rows.items()))
    print(
        f"{way:22} call {row['call']:7.4f}  update {row['update']:7.4f}  lost {row['lost']:7.4f}  staged {row['staged']:6.3f}  "
        f"durable {row['durable']:6.3f}  idle {training.bytes / row['idle'] / 1e9:5.2f} GB/s "
        f"({copy / row['idle']:4.2f} of the copy's)  (a step alone {row['alone']:.3f})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
