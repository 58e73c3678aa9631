"""Reads Tests/Fixtures/two-ranks with the stock safetensors library and, if torch is there, with torch's own readers.

The files were written by `CAIRN_WRITE_FIXTURES=1 swift test --filter filesAreByteForByteTheCommittedFixture`; their data
bytes count up from 0 (rank 0) and 100 (rank 1), so that each value is known from its place in the file.
Usage: python check_files.py [FOLDER]   (needs safetensors and numpy; 0 if all holds)
"""

import json
import pathlib
import struct
import sys

import numpy
import safetensors

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "two-ranks")


def data(rank: int) -> bytes:
    raw = (FOLDER / f"rank-0000{rank}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert (8 + length) % 4096 == 0, "data begins on a page"
    return raw[8 + length :]


def stock(rank: int) -> None:
    path = FOLDER / f"rank-0000{rank}.safetensors"
    with safetensors.safe_open(path, framework="numpy") as file:
        keys = set(file.keys())
        metadata = file.metadata()
        assert metadata["format"] == "pt" and metadata["step"] == "1200" and metadata["rank"] == str(rank)
        assert set(json.loads(metadata["DCP_SHARDING_INFO"])) == keys, "every key has its offsets"
        assert metadata["cairn.format"] == "cairn-1" and set(json.loads(metadata["cairn.table"])) <= keys
        for key in keys - {f"rank-0000{rank}/model.bias"}:
            file.get_tensor(key)
        body = data(rank)
        norm = file.get_tensor('model.norm "quoted\\" é')
        assert norm.dtype == numpy.float64 and norm.tobytes() == body[:16]
        rotary = file.get_tensor("rotary")
        assert rotary.dtype == numpy.float64 and rotary.shape == (2, 2) and rotary.tobytes() == body[16:48]
        assert file.get_tensor(f"rank-0000{rank}/empty").shape == (0, 5)
        assert file.get_tensor(f"cairn.object.0000{rank}.rng/state").tobytes() == body[-7:]


def with_torch() -> None:
    try:
        import torch
        import torch.distributed.checkpoint as dcp
        from safetensors.torch import load_file
        from torch.distributed.checkpoint import HuggingFaceStorageReader
    except ImportError:
        print("torch is not installed: its readers were not tried")
        return
    parts = [load_file(FOLDER / f"rank-0000{rank}.safetensors") for rank in (0, 1)]
    assert parts[0]["rank-00000/model.bias"].dtype == torch.bfloat16
    state = {
        "model.weight": torch.zeros(4, 3),
        "rotary": torch.zeros(4, 2, dtype=torch.float64),
        "mask": torch.zeros(2, 4, dtype=torch.bool),
        "rank-00001/scalar": torch.zeros((), dtype=torch.int64),
        "cairn.object.00000.epoch": torch.zeros(1, dtype=torch.uint8),
    }
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(FOLDER)), no_dist=True)
    for name in ("model.weight", "rotary", "mask"):
        assert state[name].numpy().tobytes() == torch.cat([part[name] for part in parts]).numpy().tobytes(), name
    assert torch.equal(state["rank-00001/scalar"], parts[1]["rank-00001/scalar"])
    assert torch.equal(state["cairn.object.00000.epoch"], parts[0]["cairn.object.00000.epoch"])
    print("torch reads the folder as it is")


if __name__ == "__main__":
    for rank in (0, 1):
        stock(rank)
    print("safetensors reads each file as it is")
    with_torch()
