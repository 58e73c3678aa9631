"""jax.Arrays, sharded over four devices that are threads of the CPU, and over two processes: real jax, in processes of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_daemon import Cluster, Daemon, free_port, trainer

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed (scripts/requirements-frameworks.txt)"),
]

COMMON = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import cairn
socket, attempt = sys.argv[1:3]
def answer(value): print(json.dumps(value), flush=True)
def bits(array): return np.asarray(array).tobytes()
def on(mesh, spec): return NamedSharding(mesh, spec)
"""


class Child:
    def __init__(self, script: str, *arguments: str, devices: int = 4) -> None:
        environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        self.process = trainer(COMMON + script, *arguments, environment=environment)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait(10)}"
        return json.loads(line)

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.wait(60) == 0


ROUND_TRIP = """
from typing import NamedTuple
class Moments(NamedTuple):
    count: object
    mean: object

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
specs = [P(), P("x"), P("y"), P("x", "y"), P("y", "x"), P(("x", "y")), P(None, ("x", "y")), P(None, "y"), P("x", None, "y"), P(None, None, "x")]
values = np.random.default_rng(1).standard_normal((8, 12, 4)).astype(np.float32)

def state_of(values, specs):
    sharded = {f"{number}": jax.device_put(values, on(mesh, spec)) for number, spec in enumerate(specs)}
    kinds = {str(kind): jax.device_put(jnp.asarray(values[:, :, 0]).astype(kind), on(mesh, P("x", "y"))) for kind in
             ("bool", "int8", "uint16", "int32", "float16", "bfloat16", "float8_e4m3fn", "complex64")}
    moments = Moments(jnp.zeros((), jnp.int32) + int(values[0, 0, 0] != 0), {"w": jax.device_put(values[0], on(mesh, P("x")))})
    tall = jax.device_put(values.reshape(-1, 4).repeat(64, 0), on(mesh, P(None, "x")))  # more rows than the daemon is asked to gather
    return {"sharded": sharded, "kinds": kinds, "opt": (moments, [jnp.zeros((0, 4)), values.copy()]), "tall": tall, "text": "t"}

with cairn.Checkpointer("run", socket=socket, attempt=attempt) as ckpt:
    old = state_of(values, specs)
    save = ckpt.save(1, old)
    save.wait(timeout=30)
    from cairn import limits
    leaf = next(leaf for leaf in ckpt._layouts.last.leaves if leaf.name == "tall")
    assert leaf.scratch is not None and leaf.bytes // 8 > limits.RUNS  # 8: bytes of a row of one part
    assert sum(leaf.extents is not None and len(leaf.extents) > 1 for leaf in ckpt._layouts.last.leaves) > 8
    new = state_of(values * 0, specs[::-1])
    before = {key: new["sharded"][key].sharding for key in new["sharded"]}
    containers = new["sharded"], new["kinds"], new["opt"][1], new["opt"][1][1], new["opt"][0].mean
    assert ckpt.restore(new) == 1
    assert all(left is right for left, right in zip(containers, (new["sharded"], new["kinds"], new["opt"][1], new["opt"][1][1], new["opt"][0].mean)))
    same = jax.tree.map(lambda a, b: bits(a) == bits(b) and a.dtype == b.dtype and a.shape == b.shape if not isinstance(a, str) else a == b, old, new)
    assert all(jax.tree.leaves(same)), same
    assert all(new["sharded"][key].sharding == before[key] for key in before)
    assert type(new["opt"][0]) is Moments and not new["opt"][0].count.committed and isinstance(new["opt"][0].count, jax.Array)
    jax.jit(lambda count, w: w + count)(new["opt"][0].count, new["sharded"]["3"])  # an array bound to one device could not be used here
    into = {}
    assert ckpt.restore(into) == 1
    assert isinstance(into["sharded"]["3"], np.ndarray) and bits(into["sharded"]["3"]) == bits(values)
    torchless = {"sharded": {"3": np.zeros_like(values)}}
    assert ckpt.restore(torchless) == 1 and bits(torchless["sharded"]["3"]) == bits(values)
    try:
        ckpt.restore(cairn.Only(tall=jnp.zeros((3, 3))))
        answer("a restore into another shape went through")
    except cairn.Mismatch as failure:
        assert "array 'tall' is [3, 3]" in str(failure), failure
    wrong = cairn.Only(sharded={"3": jax.device_put(values.astype(np.float16), on(mesh, P("x", "y")))})
    try:
        ckpt.restore(wrong)
        answer("a restore into another dtype went through")
    except cairn.Mismatch as failure:
        assert str(failure).count("'sharded.3' is F16") == 1, failure
    assert ckpt.restore(wrong, strict=False) == 1 and bits(wrong["sharded"]["3"]) == bits(values.astype(np.float16))
    refused = {}
    gone = jnp.zeros(4); gone.delete()
    for name, array in {"key": jax.random.key(1), "deleted": gone}.items():
        try:
            ckpt.save(2, {"a": array})
        except cairn.UnsupportedTensor as failure:
            refused[name] = str(failure)
    try:
        jax.jit(lambda a: ckpt.save(2, {"a": a}) and a)(jnp.zeros(4))
    except cairn.UnsupportedTensor as failure:
        refused["traced"] = str(failure)
    answer(refused)
assert "torch" not in sys.modules
"""


def test_arrays_come_back_in_the_shardings_of_the_state(shared: Daemon) -> None:
    child = Child(ROUND_TRIP, shared.socket, "one")
    refused = child.hear()
    child.end()
    assert isinstance(refused, dict), refused
    assert "jax.random.key_data()" in refused["key"]
    assert "was deleted" in refused["deleted"]
    assert "outside of jit" in refused["traced"]


DONATED = """
state = {"w": jnp.ones((40 << 20,)), "b": jax.device_put(np.ones((8, 8), np.float32), on(Mesh(np.array(jax.devices()), "x"), P(None, "x")))}
jax.block_until_ready(state)
step = jax.jit(lambda state: jax.tree.map(lambda a: a + 1, state), donate_argnums=0)
ckpt = cairn.Checkpointer("run", socket=socket, attempt=attempt)
answer("open")
sys.stdin.readline()
save = ckpt.save(1, state)
answer(save.free)
sys.stdin.readline()
given = state
state = jax.block_until_ready(step(state))
for _ in range(3):
    state = jax.block_until_ready(step(state))  # by now memory of the first would have been used again
answer([save.free, given["w"].is_deleted()])
save.wait(timeout=30)
into = jax.tree.map(jnp.zeros_like, state)
assert ckpt.restore(into) == 1
answer([float(into[name].min()) for name in into] + [float(into[name].max()) for name in into] + [float(state["w"][0])])
ckpt.close()
"""


def test_an_array_that_is_donated_before_it_is_copied_stays_as_it_was(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="128MiB", limits={"fence": "20s"})
    child = Child(DONATED, daemon.socket, "one")
    assert child.hear() == "open"
    with daemon.paused("local") as pause:
        child.tell()
        assert child.hear() is False
        child.tell()
        free, _ = child.hear()
        assert not free
        pause.resume()
    assert child.hear() == [1, 1, 1, 1, 5]
    child.end()


PROCESSES = """
rank, world, port, work = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6]
if world > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=world, process_id=rank)
devices = np.array(jax.devices())
assert len(devices) == 4
values = np.arange(80 * 120, dtype=np.float32).reshape(80, 120)
wide, square = Mesh(devices, ("x",)), Mesh(devices.reshape(2, 2), ("x", "y"))
shardings = {"rows": on(wide, P("x")), "columns": on(wide, P(None, "x")), "all": on(wide, P()), "square": on(square, P("x", "y")),
             "twice": on(square, P("y"))}
def state_of(factor):
    arrays = {name: jax.make_array_from_callback(values.shape, sharding, lambda index: values[index] * factor) for name, sharding in shardings.items()}
    return arrays | {"step": 7 if factor else 0}
ckpt = cairn.Checkpointer("run", rank=rank, world_size=world, socket=socket, shared=True)
if work == "save":
    save = ckpt.save(7, state_of(1))
    save.wait(timeout=40)
state = state_of(0)
assert ckpt.restore(state, 7) == 7
for name, sharding in shardings.items():
    assert state[name].sharding == sharding
    for shard in state[name].addressable_shards:
        assert bits(shard.data) == values[shard.index].tobytes(), name
answer(save.bytes if work == "save" else state["step"])
ckpt.close()
"""


VALUES = 80 * 120 * 4


def launched(daemon: Daemon, world: int, work: str) -> list[Any]:
    port = str(free_port())
    children = [
        Child(PROCESSES, daemon.socket, "-", str(rank), str(world), port, work, devices=4 // world) for rank in range(world)
    ]
    try:
        answers = [child.hear() for child in children]
        for child in children:
            child.end()
        return answers
    finally:
        for child in children:
            child.process.kill()


def test_arrays_over_two_processes_are_restored_by_one_and_by_two(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    wrote = launched(daemon, 2, "save")
    # Of 'all' and 'twice' each process holds the same: one of the two writes them.
    folder = daemon.step_folders()[0]
    written = sum(path.stat().st_size for path in folder.glob("rank-*.safetensors"))
    assert written == sum(wrote)
    assert written < 5 * VALUES + 24_000, "each of five arrays once, and headers and trees"
    assert launched(daemon, 1, "restore") == [7]


def test_a_tree_of_numpy_arrays_needs_neither_torch_nor_jax(shared: Daemon) -> None:
    script = """
import sys, numpy as np, cairn
with cairn.Checkpointer("run-numpy", socket=sys.argv[1]) as ckpt:
    state = {"w": np.arange(6.0).reshape(2, 3), "opt": (np.ones(3, np.float16), {"step": 4}), "seen": np.int64(9)}
    ckpt.save(1, state).wait(timeout=30)
    into = {"w": np.zeros((2, 3)), "opt": (np.zeros(3, np.float16), {"step": 0}), "seen": None}
    kept = into["w"]
    assert ckpt.restore(into) == 1
    assert into["w"] is kept and (kept == state["w"]).all() and (into["opt"][0] == 1).all() and into["opt"][1] == {"step": 4} and into["seen"] == 9
assert not {"torch", "jax"} & set(sys.modules)
"""
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", script, shared.socket], check=True, timeout=60, env=os.environ | environment)
