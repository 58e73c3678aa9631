"""The shortest trainer with Cairn: kill it at any moment, start it again, and it goes on after the newest whole step.

A daemon is started where none answers. The losses are those of a run that was never killed: model, optimizer and random numbers
are restored bit for bit.
"""

from __future__ import annotations

import argparse

import torch

import cairn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="quickstart")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8)))  # 96 MiB with its optimizer
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():  # the moments are there before a restore fills them
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = {"model": model, "optimizer": optimizer, "rng": cairn.rng_state()}

    with cairn.Checkpointer(options.run, autostart=True) as ckpt:
        ckpt.guard(optimizer)
        begin = ckpt.restore(state) or 0
        cairn.set_rng_state(state["rng"])
        print(f"restored step {begin}" if begin else "a new run", flush=True)
        for step in range(begin + 1, options.steps + 1):
            inputs = torch.randn(64, 1024)
            loss = (model(inputs) - inputs.roll(1, dims=1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            save = ckpt.save(step, {"model": model, "optimizer": optimizer, "rng": cairn.rng_state()})
            print(f"step {step:3}  loss {loss.item():.6f}", flush=True)
        save.wait("committed", timeout=60)


if __name__ == "__main__":
    main()
