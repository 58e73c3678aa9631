"""Steps as files of other tools and back: what transformers, safetensors, torch.load and dcp.load make of them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from in_process import Job
from layouts import Part, cut
from real_daemon import Daemon, Opener
from safetensors.torch import load_file, save_file
from states import assert_same, emptied, every_dtype
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import cairn
from cairn import convert, limits
from cairn.convert import export_step, import_step
from cairn.convert.__main__ import main
from cairn.torch.dcp import CairnWriter

pytestmark = [pytest.mark.daemon, pytest.mark.filterwarnings("ignore:.*torch.distributed is (unavailable|disabled).*")]


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


def commit(daemon: Daemon, run: str, step: int, state: Any) -> None:
    with daemon.open(run) as checkpointer:
        checkpointer.save(step, state).wait("committed", timeout=30)


def trained() -> dict[str, Any]:
    """A model and its optimizer after a step, and plain values."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(33, 65), torch.nn.ReLU(), torch.nn.Linear(65, 9, bias=False))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 33)).sum().backward()
    optimizer.step()
    plain = {"epoch": 3, "lr": 0.125, "name": "x", "none": None, "pair": (1, [2.5, True])}
    return {"model": model.state_dict(), "optim": optimizer.state_dict(), "plain": plain}


def common() -> dict[str, torch.Tensor]:
    """Tensors of the dtypes that safetensors has; one without elements, and a scalar."""
    found = {f"all.{name}": tensor for name, tensor in every_dtype().items() if name != "C128"}
    return found | {"zero": torch.zeros(0, 4), "scalar": torch.tensor(2.5)}


def test_a_file_of_safetensors_has_every_tensor(shared: Daemon, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONVERT_BYTES", 4096)  # tensors are cut, and small ones share a piece
    state = common() | {"big": torch.randn(3, 7, 1001)}
    commit(shared, run, 5, state)
    told: list[tuple[int, int]] = []
    file = tmp_path / "all.safetensors"
    report = export_step(run, None, "safetensors", file, socket=shared.socket, told=lambda done, of: told.append((done, of)))
    assert_same(state, load_file(file))
    assert (report.step, report.tensors, report.left_out) == (5, len(state), [])
    assert told[-1] == (report.bytes, report.bytes)
    assert len(told) > 20

    def interrupt(done: int, of: int) -> None:
        if done > of // 2:
            assert len(os.listdir(tmp_path)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_step(run, 5, "hf", tmp_path / "half", socket=shared.socket, told=interrupt)
    assert os.listdir(tmp_path) == ["all.safetensors"]


def test_what_safetensors_lacks_is_refused(shared: Daemon, run: str, tmp_path: Path) -> None:
    commit(shared, run, 1, {"a": torch.ones(2, dtype=torch.complex128)})
    with pytest.raises(cairn.CannotConvert, match=r"a \(C128\).*torch or dcp"):
        export_step(run, 1, "safetensors", tmp_path / "a", socket=shared.socket)
    assert list(tmp_path.iterdir()) == []


def test_transformers_loads_a_folder_as_it_is(shared: Daemon, run: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (scripts/requirements-frameworks.txt)")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    config.save_pretrained(tmp_path)
    commit(shared, run, 9, {"model": model, "optim": optimizer})
    for name, shard, files in (("one", 4 << 30, 1), ("many", 8192, 4)):
        report = export_step(
            run, 9, "hf", tmp_path / name, prefix="model.", shard_bytes=shard, beside=[tmp_path / "config.json"],
            socket=shared.socket,
        )
        assert len(list((tmp_path / name).glob("model*.safetensors"))) >= files
        assert (tmp_path / name / "model.safetensors.index.json").exists() == (files > 1)
        loaded, about = transformers.LlamaForCausalLM.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not about["missing_keys"]
        assert not about["unexpected_keys"]
        assert_same(dict(model.state_dict()), dict(loaded.state_dict()))
        assert all(not left.startswith("model.") for left in report.left_out)

        back = f"{run}-{name}"
        import_step(tmp_path / name, "hf", back, 0, prefix="model.", socket=shared.socket)
        again = transformers.LlamaForCausalLM(config)
        with shared.open(back) as checkpointer:
            assert checkpointer.restore({"model": again}, strict=False) == 0
        assert_same(dict(model.state_dict()), dict(again.state_dict()))


def sharded(rank: int, whole: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A matrix cut by columns, a tensor cut in ranges, a replicated one, and what is each rank's own."""
    half = whole["m.matrix"].shape[1] // 2
    flat = whole["m.flat"].reshape(-1)
    middle = 17
    return {
        "m": {
            "matrix": Part(cut(whole["m.matrix"], (0, rank * half), (12, half)), (12, 2 * half), (0, rank * half)),
            "flat": cairn.FlatShard((flat[:middle], flat[middle:])[rank].clone(), tuple(whole["m.flat"].shape), rank * middle),
            "bias": whole["m.bias"].clone(),
        },
        "own": {"seed": torch.full((3,), rank), "name": f"rank {rank}"},
    }  # fmt: skip


@pytest.fixture
def wide(shared: Daemon, run: str, parts: None) -> dict[str, torch.Tensor]:
    """A step that two ranks saved: its whole tensors."""
    whole = {"m.matrix": torch.randn(12, 10), "m.flat": torch.randn(5, 8), "m.bias": torch.randn(6)}
    with Job(shared, 2, run=run, replicated=["m.*"]) as job:
        job.commit(4, lambda rank: sharded(rank, whole))
    return whole


def test_tensors_of_two_ranks_are_whole(shared: Daemon, run: str, wide: dict[str, torch.Tensor], tmp_path: Path) -> None:
    report = export_step(run, 4, "safetensors", tmp_path / "m", prefix="m.", socket=shared.socket)
    assert_same({name.removeprefix("m."): tensor for name, tensor in wide.items()}, load_file(tmp_path / "m"))
    assert report.left_out == ["own.seed"]
    for to in ("safetensors", "hf", "torch", "dcp"):
        with pytest.raises(cairn.CannotConvert, match=r"own\.seed of step 4 are single ranks' own.*--rank 0"):
            export_step(run, 4, to, tmp_path / to, socket=shared.socket)
    with pytest.raises(cairn.CannotConvert, match="rank 2 saved nothing"):
        export_step(run, 4, "torch", tmp_path / "no", rank=2, socket=shared.socket)
    export_step(run, 4, "safetensors", tmp_path / "all", rank=1, socket=shared.socket)
    assert_same(wide | {"own.seed": torch.full((3,), 1)}, load_file(tmp_path / "all"))
    state = {
        "m": {name.removeprefix("m."): tensor for name, tensor in wide.items()},
        "own": {"seed": torch.full((3,), 1), "name": "rank 1"},
    }
    export_step(run, 4, "torch", tmp_path / "all.pt", rank=1, socket=shared.socket)
    assert_same(state, torch.load(tmp_path / "all.pt", weights_only=True))
    export_step(run, 4, "dcp", tmp_path / "dcp", rank=1, socket=shared.socket)
    loaded = emptied(state)
    dcp.load(loaded, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert_same(state, loaded)


def with_texts(state: Any) -> Any:
    """As DCP names what it flattens: its metadata has texts where a state that holds tensors had numbers as keys."""
    return {str(key): with_texts(value) for key, value in state.items()} if isinstance(state, dict) else state


def test_what_is_equal_on_all_ranks_is_nobodys_own(shared: Daemon, run: str, tmp_path: Path) -> None:
    state = {"weight": torch.randn(5), "epoch": 3}
    with Job(shared, 2, run=run, replicated=True, shared=True) as job:
        job.commit(1, lambda rank: {"weight": state["weight"].clone(), "epoch": 3})
    export_step(run, 1, "torch", tmp_path / "out", socket=shared.socket)
    assert_same(state, torch.load(tmp_path / "out", weights_only=True))
    with Job(shared, 2, run=run, replicated=True, shared=True) as job:  # the run goes on as if nobody had looked
        assert job.all(lambda checkpointer: checkpointer.restore({"weight": torch.zeros(5), "epoch": 0})) == [1, 1]
        job.commit(2, lambda rank: {"weight": state["weight"].clone(), "epoch": 4})
        assert job.ranks[0].all_steps() == [1, 2]
        assert job.ranks[0].latest_step() == 2


@pytest.mark.parametrize("to", ["torch", "dcp"])
def test_a_state_goes_out_and_comes_back(
    shared: Daemon, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr(limits, "EXPORT_DCP_BYTES", 4096)
    state = trained() | {"dtypes": every_dtype(), "zero": torch.zeros(0, 4), "scalar": torch.tensor(3.5)}
    state["tied"] = state["model"]["0.weight"]
    commit(shared, run, 2, state)
    export_step(run, 2, to, tmp_path / "out", socket=shared.socket)
    if to == "torch":
        loaded = torch.load(tmp_path / "out", weights_only=True)
        assert loaded["tied"] is loaded["model"]["0.weight"]
        assert_same(state, loaded)
    else:
        loaded = emptied(state)
        dcp.load(loaded, checkpoint_id=tmp_path / "out", no_dist=True)
        assert_same(state, loaded)
        assert len(list((tmp_path / "out").glob("*.distcp"))) > 3
        dcp_to_torch_save(tmp_path / "out", tmp_path / "out.pt")
        assert_same(state["model"], torch.load(tmp_path / "out.pt")["model"])
    import_step(tmp_path / "out", to, f"{run}-back", 7, socket=shared.socket)
    again: dict[str, Any] = {}
    with shared.open(f"{run}-back") as checkpointer:
        assert checkpointer.restore(again) == 7
    assert_same(state if to == "torch" else with_texts(state), again)


def test_arrays_become_tensors_and_pickles_are_not_run(shared: Daemon, run: str, tmp_path: Path) -> None:
    commit(shared, run, 1, {"array": np.arange(3, dtype=np.int16), "odd": {"a": Odd()}})
    with pytest.raises(cairn.PickleRefused, match=r"'odd\.a'.*getcwd"):
        export_step(run, 1, "torch", tmp_path / "out", socket=shared.socket)
    export_step(run, 1, "torch", tmp_path / "out", socket=shared.socket, allow_pickle=True)
    loaded = torch.load(tmp_path / "out", weights_only=True)
    assert_same({"array": torch.arange(3, dtype=torch.int16), "odd": {"a": os.getcwd()}}, loaded)


def test_the_tensors_of_a_step_that_dcp_saved(shared: Daemon, run: str, tmp_path: Path) -> None:
    state = {"model": {"weight": torch.randn(30, 20)}, "epoch": 3}
    with shared.open(run) as checkpointer:
        dcp.save(state, checkpoint_id="x/step-6", storage_writer=CairnWriter(checkpointer), no_dist=True)
    report = export_step(run, 6, "hf", tmp_path / "hf", socket=shared.socket)
    assert_same({"model.weight": state["model"]["weight"]}, load_file(tmp_path / "hf" / "model.safetensors"))
    assert report.left_out == []
    with pytest.raises(cairn.CannotConvert, match=r"no tree.*cairn path"):
        export_step(run, 6, "torch", tmp_path / "out", socket=shared.socket)


def test_an_import_is_restored_by_more_ranks(shared: Daemon, run: str, parts: None, tmp_path: Path) -> None:
    whole = torch.randn(12, 10)
    save_file({"matrix": whole, "bias": torch.ones(3)}, tmp_path / "in.safetensors")
    report = import_step(tmp_path / "in.safetensors", "safetensors", run, 3, prefix="m.", socket=shared.socket)
    assert (report.step, report.tensors, report.bytes) == (3, 2, 12 * 10 * 4 + 12)

    def restored(checkpointer: cairn.Checkpointer) -> torch.Tensor:
        mine = torch.zeros(12, 5)
        assert checkpointer.restore({"m": {"matrix": Part(mine, (12, 10), (0, 5 * checkpointer.rank))}}) == 3
        return mine

    with Job(shared, 2, run=run) as job:
        assert_same(whole, torch.cat(job.all(restored), 1))


def test_a_live_run_goes_on_and_what_is_there_is_left_alone(open_run: Opener, shared: Daemon, tmp_path: Path) -> None:
    checkpointer = open_run()
    run = checkpointer.run
    save_file({"a": torch.ones(1)}, tmp_path / "in")
    with pytest.raises(cairn.CannotConvert, match="1 ranks connected"):
        import_step(tmp_path / "in", "safetensors", run, 1, socket=shared.socket)
    checkpointer.save(1, {"a": torch.ones(2)}).wait("committed", timeout=30)
    export_step(run, 1, "safetensors", tmp_path / "live", socket=shared.socket)
    assert_same({"a": torch.ones(2)}, load_file(tmp_path / "live"))
    checkpointer.save(2, {"a": torch.ones(2)}).wait("committed", timeout=30)
    checkpointer.close()
    (tmp_path / "there").write_text("x")
    for path, why in ((tmp_path / "there", "is there already"), (tmp_path / "no" / "a", "is no folder")):
        with pytest.raises(cairn.CannotConvert, match=why):
            export_step(run, 1, "safetensors", path, socket=shared.socket)
    with pytest.raises(cairn.NoSuchStep, match="step=3, committed='2, 1'"):
        export_step(run, 3, "safetensors", tmp_path / "a", socket=shared.socket)
    with pytest.raises(cairn.CannotConvert, match=r"has no tensor 'b\.…'; it has a"):
        export_step(run, 1, "safetensors", tmp_path / "a", prefix="b.", socket=shared.socket)
    assert (sorted(os.listdir(tmp_path)), (tmp_path / "there").read_text()) == (["in", "live", "there"], "x")
    with pytest.raises(cairn.CannotConvert, match="has steps already"):
        import_step(tmp_path / "in", "safetensors", run, 9, socket=shared.socket)


class Odd:
    """What a file must not bring along unasked."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def test_bad_files_are_refused(shared: Daemon, run: str, tmp_path: Path) -> None:
    def refused(form: str, name: str, why: str) -> None:
        with pytest.raises(cairn.CannotConvert, match=why):
            import_step(tmp_path / name, form, run, 1, socket=shared.socket)

    refused("torch", "none", "is not there")
    save_file({"a": torch.ones(100)}, tmp_path / "whole")
    (tmp_path / "torn").write_bytes((tmp_path / "whole").read_bytes()[:-1])
    refused("safetensors", "torn", "not a whole safetensors file")
    torch.save({"a": torch.ones(1), "odd": Odd()}, tmp_path / "odd.pt")
    refused("torch", "odd.pt", "--allow-pickle")
    dcp.save({"a": torch.ones(1), "odd": Odd()}, checkpoint_id=tmp_path / "odd", no_dist=True)
    refused("dcp", "odd", "--allow-pickle")
    folder = tmp_path / "hf"
    folder.mkdir()
    refused("hf", "hf", "neither")
    index = folder / "model.safetensors.index.json"
    for places, why in (({"a": "../whole"}, "not in its folder"), ({"a": "x", "b": "x"}, "differ in b"), ([], "not an index")):
        (folder / "x").write_bytes((tmp_path / "whole").read_bytes())
        index.write_text(json.dumps({"weight_map": places} if places else places))
        refused("hf", "hf", why)


def test_the_command_line(shared: Daemon, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.arange(4.0)}, tmp_path / "in")
    path = {"PYTHONPATH": str(Path(convert.__file__).parent.parent.parent), "CAIRN_SOCKET": shared.socket}
    done = subprocess.run(
        [sys.executable, "-m", "cairn.convert", "import", run, "3", "--from", "safetensors", "--prefix", "m.", str(tmp_path / "in")],
        env=os.environ | path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"run '{run}', step 3: 1 tensors, 0.00 GiB\n", "")

    export = ["export", run, "newest", "--to", "hf", "--socket", shared.socket, str(tmp_path / "out")]
    assert main([*export, "--prefix", "m.", "--shard", "1GiB"]) == 0
    assert capsys.readouterr().out == f"step 3: 1 tensors, 0.00 GiB, in '{tmp_path / 'out'}'\n"
    assert_same({"a": torch.arange(4.0)}, load_file(tmp_path / "out" / "model.safetensors"))
    assert main(export) == 1
    assert "is there already" in capsys.readouterr().err
    with monkeypatch.context() as terminal:
        terminal.setattr(sys.stderr, "isatty", lambda: True)
        assert main(["export", run, "3", "--to", "torch", "--socket", shared.socket, str(tmp_path / "out.pt")]) == 0
    zero = "0.00 GiB of 0.00 GiB"
    assert capsys.readouterr().err == f"\r{zero} (0 %)\r{zero} (100 %)\n"
    assert main([*export[:-1], str(tmp_path / "no"), "--with", str(tmp_path / "config.json")]) == 1
    assert "config.json' is no file" in capsys.readouterr().err
    for wrong in (["export", run, "x", "--to", "hf", "y"], [*export, "--shard", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
