"""What a run's state was at each step, in a file that outlives the trainer: one JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    def __init__(self, path: Path) -> None:
        self.known: dict[int, dict[str, Any]] = {}
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        for line in lines[:-1]:
            entry = json.loads(line)
            self.known.setdefault(entry["step"], entry)
        # A kill in mid-write leaves a last line without its end: it was not written.
        whole = sum(len(line) + 1 for line in lines[:-1])
        self._file = open(path, "ab")  # noqa: SIM115  # open for as long as the run lives
        self._file.truncate(whole)

    def write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
