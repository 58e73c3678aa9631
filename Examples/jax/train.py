"""Trains a small network with JAX, sharded over a mesh of devices, and saves every step through Cairn; started again, it goes on.

On a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=4. The lines for Cairn are marked; the step donates its state, as usual.
"""

from __future__ import annotations

import argparse
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cairn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="jax", help="the run's name (default: jax)")
parser.add_argument("--steps", type=int, default=6, help="train up to this step (default: 6)")
options = parser.parse_args()

mesh = Mesh(np.array(jax.devices()), ("shard",))
rows, columns = NamedSharding(mesh, PartitionSpec("shard", None)), NamedSharding(mesh, PartitionSpec(None, "shard"))
keys = jax.random.split(jax.random.key(17), 2)
params = {
    "in": jax.device_put(jax.random.normal(keys[0], (64, 256)) / 8, columns),
    "out": jax.device_put(jax.random.normal(keys[1], (256, 64)) / 16, rows),
}
zeros = jax.tree.map(jnp.zeros_like, params)
state = {"params": params, "moments": (zeros, jax.tree.map(jnp.zeros_like, params)), "step": jnp.zeros((), jnp.int32)}


def loss_of(params: dict[str, jax.Array], batch: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(batch @ params["in"]) @ params["out"] - jnp.roll(batch, 1, axis=1)) ** 2)


def train_step(state: dict, batch: jax.Array) -> tuple[dict, jax.Array]:
    """One step of Adam."""
    loss, grads = jax.value_and_grad(loss_of)(state["params"], batch)
    step = state["step"] + 1
    first = jax.tree.map(lambda mean, grad: 0.9 * mean + 0.1 * grad, state["moments"][0], grads)
    second = jax.tree.map(lambda mean, grad: 0.99 * mean + 0.01 * grad**2, state["moments"][1], grads)
    rate = 0.01 * jnp.sqrt(1 - 0.99**step) / (1 - 0.9**step)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), state["params"], first, second)
    return {"params": params, "moments": (first, second), "step": step}, loss


train_step = jax.jit(train_step, donate_argnums=0)

ckpt = cairn.Checkpointer(options.run, rank=jax.process_index(), world_size=jax.process_count())  # Cairn
restored = ckpt.restore(state)  # Cairn: the containers get new arrays, sharded as the old ones
print("a new run" if restored is None else f"restored step {restored}")
step = restored or 0
while step < options.steps:
    step += 1
    batch = jax.random.normal(jax.random.fold_in(jax.random.key(1), step), (32, 64))
    state, loss = train_step(state, batch)
    ckpt.save(step, state)  # Cairn: returns at once, for arrays do not change
    print(f"step {step}: loss {loss:.4f}")
ckpt.wait_until_finished()  # Cairn
ckpt.close()  # Cairn
digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))).hexdigest()
print(f"finished at step {step}, SHA-256 {digest}")
