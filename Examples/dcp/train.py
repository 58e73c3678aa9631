"""A small FSDP2 training that saves as it goes, and goes on where it was: torchrun --nproc-per-node 2 stock.py FOLDER STEPS

train.py is the same on Cairn: `diff stock.py train.py` is one line."""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

# isort: split
import cairn.torch.dcp as dcp

folder, steps = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo")
checkpoints = dist.new_group(backend="gloo")  # async_save talks while the model does
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
for layer in model:
    fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())


def state():
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optim": moments, "step": step}


step, resume = 0, int(os.environ.get("RESUME", "0"))
if resume:
    loaded = state()
    dcp.load(loaded, checkpoint_id=f"{folder}/step-{resume}")
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optim"])
    step = loaded["step"]

pending = None
begin = step + 1
for step in range(begin, steps + 1):
    torch.manual_seed(step)
    loss = model(torch.randn(32, 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if pending is not None:
        pending.result()
    pending = dcp.async_save(state(), checkpoint_id=f"{folder}/step-{step}", process_group=checkpoints)
    if dist.get_rank() == 0:
        print(f"step {step}: loss {loss.item():.6f}", flush=True)
if pending is not None:
    pending.result()
dist.destroy_process_group()
