"""The state of the random number generators, as values that a tree can hold: small, and not at a new address each time."""

from __future__ import annotations

import random
import struct
import sys
from typing import Any

State = dict[str, Any]


def rng_state() -> State:
    """The generators of Python, and of numpy and torch (CPU) where they are imported.

    Returns a dict of bytes and plain values: put it into the state that is saved, and give what was restored to
    ``set_rng_state``. It is eager: ``save()`` has copied it when it returns.
    """
    version, words, gauss = random.getstate()
    state: State = {"python": {"version": version, "words": struct.pack(f"<{len(words)}I", *words), "gauss": gauss}}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, position, has_gauss, cached = numpy.random.get_state()
        state["numpy"] = {
            "kind": kind,
            "keys": keys.astype("<u4").tobytes(),
            "position": int(position),
            "hasGauss": int(has_gauss),
            "cached": float(cached),
        }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy().tobytes()
    return state


def set_rng_state(state: State) -> None:
    """Set every generator that ``state`` holds and whose library is imported here.

    Raises:
        KeyError, ValueError: it is not what ``rng_state`` gave.
    """
    python = state["python"]
    words = struct.unpack(f"<{len(python['words']) // 4}I", python["words"])
    random.setstate((python["version"], words, python["gauss"]))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and "numpy" in state:
        saved = state["numpy"]
        keys = numpy.frombuffer(saved["keys"], dtype="<u4").astype(numpy.uint32)
        numpy.random.set_state((saved["kind"], keys, saved["position"], saved["hasGauss"], saved["cached"]))
    torch: Any = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.frombuffer(bytearray(state["torch"]), dtype=torch.uint8))
