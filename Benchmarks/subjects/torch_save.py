"""torch.save and safetensors: the two synchronous ways that need nothing but a file."""

from __future__ import annotations

import pickle

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .base import Synchronous


class TorchSave(Synchronous):
    name = "torch.save"
    settings = "the zip format without its CRC-32 (set_crc32_options(False): 1.3-2x faster); loaded by mmap, copied in place"

    def write(self) -> None:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(self.state.tree, self.target / "state.pt")
        finally:
            torch.serialization.set_crc32_options(True)

    def load(self) -> None:
        found = torch.load(self.target / "state.pt", mmap=True, weights_only=False)
        for name, group in (("model", self.state.model), ("optim", self.state.optim)):
            for key, tensor in group.items():
                tensor.copy_(found[name][key])
        self.state.extra.update(found["extra"])


class Safetensors(Synchronous):
    name = "safetensors"
    settings = "save_file, the plain values pickled beside it; loaded by safe_open (mmap), copied in place"

    def write(self) -> None:
        save_file(self.state.tensors, self.target / "state.safetensors")
        (self.target / "extra.pickle").write_bytes(pickle.dumps(self.state.extra))

    def load(self) -> None:
        with safe_open(self.target / "state.safetensors", framework="pt") as file:
            for name, tensor in self.state.tensors.items():
                tensor.copy_(file.get_tensor(name))
        self.state.extra.update(pickle.loads((self.target / "extra.pickle").read_bytes()))
