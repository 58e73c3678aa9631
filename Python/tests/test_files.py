"""A committed step is files that stock tools read: the safetensors library, and PyTorch's HuggingFaceStorageReader."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from real_daemon import Cluster
from states import assert_same, bits, every_dtype

safetensors = pytest.importorskip("safetensors")
pytestmark = pytest.mark.daemon

STORED_AS = {"C128": torch.float64, "F8_E8M0": torch.uint8}
"""Types that the format, or its reader in torch, lacks."""


@pytest.mark.parametrize("tiers", [1, 2])
def test_safetensors_reads_every_ranks_file(cluster: Cluster, tiers: int) -> None:
    from safetensors.torch import load_file

    daemon = cluster.daemon(tiers=tiers)
    state = {"dtypes": every_dtype(), "w": torch.randn(100, 7), "zero": torch.zeros(0, 3), "scalar": torch.tensor(2.0), "epoch": 3}
    with daemon.open() as checkpointer:
        checkpointer.save(5, state).wait("committed", timeout=60)
    (folder,) = daemon.step_folders()
    assert folder.name.startswith("step-5.")
    (file,) = folder.glob("rank-*.safetensors")
    assert file.name == "rank-00000.safetensors"
    found = load_file(str(file))
    for name, tensor in state["dtypes"].items():  # type: ignore[attr-defined]
        stored = found[f"dtypes.{name}"]
        assert bits(stored) == bits(tensor), name
        if name in STORED_AS:
            assert stored.dtype == STORED_AS[name]
        else:
            assert stored.dtype == tensor.dtype, name
            assert stored.shape == tensor.shape
    for name in ("w", "zero", "scalar"):
        assert_same(state[name], found[name])
    with safetensors.safe_open(str(file), "pt") as reader:
        metadata = reader.metadata()
        assert metadata["step"] == "5"
        assert set(json.loads(metadata["DCP_SHARDING_INFO"])) == set(reader.keys())
        assert any(key.startswith("cairn.object.00000.") for key in reader.keys())  # noqa: SIM118


@pytest.mark.parametrize("tiers", [1, 2])
def test_torchs_own_reader_loads_a_step_folder(cluster: Cluster, tiers: int) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    daemon = cluster.daemon(tiers=tiers)
    state = {"w": torch.randn(64, 33), "b": torch.randn(33, dtype=torch.bfloat16), "epoch": 3}
    with daemon.open() as checkpointer:
        checkpointer.save(7, {"model": state}).wait("committed", timeout=60)
    (folder,) = daemon.step_folders()
    into: dict[str, Any] = {"model.w": torch.zeros(64, 33), "model.b": torch.zeros(33, dtype=torch.bfloat16)}
    dcp.load(into, storage_reader=HuggingFaceStorageReader(str(folder)))
    assert_same({"model.w": state["w"], "model.b": state["b"]}, into)
