"""torch.distributed.checkpoint on Cairn: one process here, four in dcp_ranks.py; and what torch's own tools read of the folders."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as stock
from real_daemon import Cluster, Daemon
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import cairn
import cairn.torch.dcp as dcp
from cairn.torch import names, stored
from cairn.torch.frames import frame

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ALONE = {"no_dist": True}


def state(factor: int = 1) -> dict[str, Any]:
    torch.manual_seed(factor)
    return {
        "model": {"weight": torch.randn(300, 200), "bias": torch.randn(7).to(torch.bfloat16), "scalar": torch.tensor(factor)},
        "other": [torch.arange(5) * factor, {"double": torch.randn(2, 3, dtype=torch.float64)}],
        "eight": torch.randn(6).to(torch.float8_e4m3fn),
        "pair": torch.randn(3, dtype=torch.complex128),
        "none": torch.zeros(0, 2),
        "turned": torch.randn(4, 6).t(),
        "epoch": factor,
        "text": {"a": "b" * factor, "set": {factor}},
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(bits(left), bits(right))
    return bool(left == right)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


@pytest.fixture(params=[1, 2], ids=["one-tier", "two-tiers"])
def daemon(request: pytest.FixtureRequest, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    started = cluster.daemon(tiers=request.param)
    monkeypatch.setenv("CAIRN_SOCKET", started.socket)
    yield started
    forget()


def forget() -> None:
    """Close this process's Checkpointers: the next test has another daemon."""
    for checkpointer in names._checkpointers.values():
        checkpointer.close()
    names._checkpointers.clear()
    dcp._writers.clear()


def test_what_is_saved_is_loaded(daemon: Daemon) -> None:
    dcp.save(state(), checkpoint_id="checkpoints/run/step-12", **ALONE)
    into = state(2)
    dcp.load(into, checkpoint_id="checkpoints/run/step-12", **ALONE)
    assert same(into, state())
    # Through the stock calls, and the newest without its name.
    dcp.save(state(3), checkpoint_id="checkpoints/run/step-13", **ALONE)
    into = state(2)
    stock.load(into, storage_reader=dcp.CairnReader("run"), **ALONE)
    assert same(into, state(3))
    assert names.checkpointer_of("run").all_steps() == [12, 13]


def test_stock_tools_read_the_folder(daemon: Daemon, tmp_path: Path) -> None:
    answer = dcp.async_save(state(), checkpoint_id="x/run/7", **ALONE)
    answer.result(60)
    (folder,) = daemon.step_folders()
    into = state(2)
    stock.load(into, storage_reader=stock.FileSystemReader(folder), **ALONE)
    assert same(into, state())
    dcp_to_torch_save(folder, tmp_path / "all.pt")
    assert same(torch.load(tmp_path / "all.pt", weights_only=True), state())
    tensors = {"model.weight": torch.zeros(300, 200), "model.bias": torch.zeros(7, dtype=torch.bfloat16)}
    stock.load(tensors, storage_reader=stock.HuggingFaceStorageReader(str(folder)), **ALONE)
    assert same(tensors, {name: state()["model"][name.removeprefix("model.")] for name in tensors})


def test_async_save_copies_what_it_is_given(daemon: Daemon) -> None:
    given = state()
    answer = dcp.async_save(given, checkpoint_id="x/run/1", **ALONE)
    given["model"]["weight"].zero_()  # eager: it is copied
    given["epoch"], given["text"]["a"] = 99, "changed"
    assert answer.staging_completion.result(60) is None
    answer.upload_completion.result(60)
    into = state(2)
    dcp.load(into, checkpoint_id="x/run/1", **ALONE)
    assert same(into, state())


def test_lazy_tensors_may_change_when_staging_has_completed(daemon: Daemon) -> None:
    writer = dcp.CairnWriter("run", lazy=True)
    given = state()
    weight = given["model"]["weight"] = torch.randn(3000, 2000)
    wanted = weight.clone()
    answer = dcp.async_save(given, checkpoint_id="x/run/1", storage_writer=writer, **ALONE)
    answer.staging_completion.result(60)
    weight.zero_()
    answer.result(60)
    into = state(2)
    into["model"]["weight"] = torch.zeros(3000, 2000)
    dcp.load(into, checkpoint_id="x/run/1", **ALONE)
    assert torch.equal(into["model"]["weight"], wanted)


def test_a_lazy_tensor_that_changes_too_early_fails_the_checkpoint(daemon: Daemon) -> None:
    writer = dcp.CairnWriter("run", lazy=True)
    given = {"weight": torch.randn(4000, 2000)}
    with daemon.paused("stager"):
        answer = stock.async_save(given, checkpoint_id="x/run/1", storage_writer=writer, **ALONE)
        given["weight"].add_(1)
    with pytest.raises(cairn.CheckpointFailed, match="'weight' was changed in place"):
        answer.upload_completion.result(60)


def test_a_guarded_optimizer_waits_and_nothing_else_does(daemon: Daemon) -> None:
    weight = torch.nn.Parameter(torch.randn(2000, 1000))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    writer = dcp.CairnWriter("run")
    writer.guard(optimizer)
    wanted = weight.detach().clone()
    answer = dcp.async_save({"weight": weight}, checkpoint_id="x/run/1", storage_writer=writer, **ALONE)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    answer.result(60)
    into = {"weight": torch.zeros(2000, 1000)}
    dcp.load(into, checkpoint_id="x/run/1", **ALONE)
    assert torch.equal(into["weight"], wanted)


def test_a_checkpoint_that_planning_failed_is_given_up(daemon: Daemon) -> None:
    class Broken(stock.DefaultSavePlanner):  # type: ignore[misc]
        def create_local_plan(self) -> Any:
            raise ZeroDivisionError("as a planner may")

    writer = dcp.CairnWriter("run")
    for number in range(5):
        answer = stock.async_save(state(), checkpoint_id=f"x/run/{number}", storage_writer=writer, planner=Broken(), **ALONE)
        with pytest.raises(CheckpointException, match="as a planner may"):
            answer.upload_completion.result(60)
    stock.async_save(state(), checkpoint_id="x/run/9", storage_writer=writer, **ALONE).upload_completion.result(60)
    assert names.checkpointer_of("run").all_steps() == [9]


def test_what_does_not_go_is_refused_with_its_reason(daemon: Daemon) -> None:
    with pytest.raises(ValueError, match="does not end in the step's number"):
        dcp.save(state(), checkpoint_id="x/run/newest", **ALONE)
    with pytest.raises(ValueError, match="Say 'RUN/step-1200'"):
        dcp.save(state(), checkpoint_id="step-1", **ALONE)
    with pytest.raises(CheckpointException, match="which step is it"):
        stock.save(state(), storage_writer=dcp.CairnWriter("run"), **ALONE)
    with pytest.raises(cairn.NotSupported, match=r"AsyncCheckpointerType\.THREAD"):
        io.BytesIO(torch.save(dcp.CairnWriter("run"), io.BytesIO()))

    class Halving(stock.DefaultSavePlanner):  # type: ignore[misc]
        def resolve_data(self, item: Any) -> Any:
            return super().resolve_data(item) / 2

    with pytest.raises(CheckpointException, match=r"use dcp\.save"):
        dcp.async_save({"x": torch.ones(3)}, checkpoint_id="x/run/1", planner=Halving(), **ALONE).result(60)
    dcp.save({"x": torch.ones(3)}, checkpoint_id="x/run/1", planner=Halving(), **ALONE)
    into = {"x": torch.zeros(3)}
    dcp.load(into, checkpoint_id="x/run/1", **ALONE)
    assert torch.equal(into["x"], torch.full((3,), 0.5))
    names.checkpointer_of("run").save(2, {"x": torch.ones(1)}).wait(timeout=60)
    with pytest.raises(cairn.Mismatch, match=r"Checkpointer\.restore"):
        dcp.CairnReader("run", step=2).read_metadata()
    with pytest.raises(cairn.NoSuchStep):
        dcp.CairnReader("run", step=77).read_metadata()


def test_another_dtype_and_a_part_of_the_keys_are_loaded(daemon: Daemon) -> None:
    dcp.save(state(), checkpoint_id="x/run/1", **ALONE)
    into = {"model": {"weight": torch.zeros(300, 200, dtype=torch.float64)}}
    dcp.load(into, checkpoint_id="x/run/1", **ALONE)
    assert torch.equal(into["model"]["weight"], state()["model"]["weight"].double())


def test_no_daemon_is_an_error() -> None:
    socket = "/nonexistent/cairn"
    with (
        cairn.Checkpointer("run", rank=0, world_size=1, socket=socket, attempt="x") as checkpointer,
        pytest.raises(cairn.Unavailable),
    ):
        stock.async_save(state(), checkpoint_id="x/run/1", storage_writer=dcp.CairnWriter(checkpointer), **ALONE)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.bool, torch.float8_e5m2, torch.complex64, torch.uint16, torch.int64]
)
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 2), (1,)])
def test_a_frame_and_the_bytes_are_a_file_of_torch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    bytes_ = torch.arange(torch.Size(shape).numel() * dtype.itemsize, dtype=torch.uint8) % 2
    tensor = bytes_.view(dtype).reshape(shape)
    before = frame(dtype, shape)
    assert len(before) % 16 == 0
    loaded = torch.load(io.BytesIO(before + bytes(bytes_.tolist())), weights_only=True)
    assert loaded.dtype == dtype
    assert loaded.shape == shape
    assert torch.equal(loaded.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_the_package_is_imported_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import cairn; assert not any('cairn.torch' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env={"PYTHONPATH": str(Path(__file__).parent.parent)})


def test_ranks_of_files() -> None:
    assert stored.rank_of(stored.file_of(123456)) == 123456
    assert stored.file_of(3) == "rank-00003.safetensors"


class Ranks:
    """The processes of dcp_ranks.py."""

    def __init__(self, world: int, folder: Path, daemon: Daemon, attempt: str) -> None:
        folder.mkdir()
        environment = {
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "CAIRN_SOCKET": daemon.socket,
            "CAIRN_ATTEMPT": attempt,
            "OMP_NUM_THREADS": "1",
        }
        self.log = (folder / "log").open("w+")
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "dcp_ranks.py"), str(rank), str(world), str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment | {"PATH": "/usr/bin:/bin", "HOME": str(folder)},
            )
            for rank in range(world)
        ]  # fmt: skip
        self.expect("ready")

    def expect(self, wanted: Any) -> None:
        found = self.answers()
        assert found == [wanted] * len(found), (found, self.text())

    def answers(self) -> list[Any]:
        found = []
        for process in self.processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, self.text()
            found.append(json.loads(line))
        return found

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]

    def tell(self, *command: Any) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()

    def do(self, *command: Any) -> None:
        self.tell(*command)
        self.expect("")

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            assert process.wait(60) == 0, self.text()
        self.log.close()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def test_meshes_of_four_ranks_load_what_others_saved(cluster: Cluster, tmp_path: Path) -> None:
    daemon = cluster.daemon(tiers=2)
    ranks = Ranks(4, tmp_path / "four", daemon, "four")
    try:
        saves = [
            ("fsdp", "sync"), ("hsdp", "eager"), ("tp", "lazy"), ("fsdp-tp", "guarded"), ("plain", "eager"), ("fsdp", "guarded"), ("plain", "sync"),
        ]  # fmt: skip
        for number, (layout, how) in enumerate(saves):
            ranks.do("save", layout, f"x/{layout}-{how}/step-{number}", how)
        folders = {
            folder.name.split(".")[0]: folder for run in daemon.run_folder().parent.iterdir() for folder in run.glob("step-*")
        }
        for number, (layout, how) in enumerate(saves):
            name = f"x/{layout}-{how}/step-{number}"
            others = ["tp", "fsdp", "plain", "fsdp-tp", "hsdp"]
            ranks.do("load", others[number % len(others)], name, "cairn", name)
            if number % 2:
                ranks.do("load", others[(number + 2) % len(others)], name, str(folders[f"step-{number}"]), name)
        # What is equal on all ranks is stored once.
        files = [load_file(folders["step-4"] / stored.file_of(rank)) for rank in range(4)]
        sizes = [sum(tensor.nbytes for name, tensor in file.items() if not name.startswith(("rank-", "cairn."))) for file in files]
        assert sum(sizes) == sum(tensor.nbytes for tensor in tensors_of(folders["step-4"]).values())
        assert min(sizes) > 0
        ranks.do("odd", "x/odd/20")
        ranks.tell("refused", "x/odd/77")
        assert set(ranks.answers()) == {"CheckpointException"}
        ranks.close()
    except BaseException:
        ranks.kill()
        raise
    # Two ranks, which are another job.
    fewer = Ranks(2, tmp_path / "two", daemon, "two")
    try:
        fewer.do("remember", "x/fsdp-sync/step-0", "plain")
        fewer.do("load", "tp", "x/fsdp-sync/step-0", "cairn", "x/fsdp-sync/step-0")
        fewer.do("save", "tp", "x/fsdp-sync/step-30", "eager")
        fewer.close()
    except BaseException:
        fewer.kill()
        raise


def tensors_of(folder: Path) -> dict[str, Any]:
    """All tensors of a step, by torch's own reader."""
    out: dict[str, Any] = {}
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    _load_state_dict(out, storage_reader=stock.FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    found: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                walk(child, f"{path}.{key}")
        elif isinstance(node, torch.Tensor):
            found[path] = node

    walk(out, "")
    return found


def test_what_was_staged_and_not_planned_ends_with_its_ranks(cluster: Cluster, tmp_path: Path) -> None:
    daemon = cluster.daemon()
    ranks = Ranks(2, tmp_path / "ranks", daemon, "dying")
    try:
        ranks.do("save", "fsdp", "x/run/step-1", "sync")
        ranks.do("stage", "fsdp", "x/run/step-2")
        assert needed(daemon) > 0
    finally:
        ranks.kill()
    deadline = time.monotonic() + 10
    while needed(daemon) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert needed(daemon) == 0
    assert [folder.name.split(".")[0] for folder in daemon.step_folders()] == ["step-1"]
    assert not list(daemon.run_folder().glob(".saving-*"))


def needed(daemon: Daemon) -> int:
    """Chunks of the pool that no tier has."""
    raw = daemon.raw()
    status = raw.call("dev.cairn.Operations.Status")
    raw.close()
    return int(status["parameters"]["pool"]["needed"])


def test_the_example_differs_from_stock_by_one_line_and_trains_the_same(cluster: Cluster, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "Examples" / "dcp"
    lines = [(folder / name).read_text().splitlines() for name in ("stock.py", "train.py")]
    changed = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert changed == [("import torch.distributed.checkpoint as dcp", "import cairn.torch.dcp as dcp")]
    daemon = cluster.daemon()

    def run(script: str, where: str, steps: int, resume: int = 0) -> list[str]:
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parent.parent), "CAIRN_SOCKET": daemon.socket, "RESUME": str(resume), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(folder / script),
            where,
            str(steps),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    expected = run("stock.py", str(tmp_path / "stock"), 5)
    found = run("train.py", "checkpoints/example", 3) + run("train.py", "checkpoints/example", 5, resume=3)
    assert found == expected
    assert len(found) == 5
    assert daemon.step_folders("example")[-1].name.startswith("step-5.")
