"""Small files that stand where another library looks for a checkpoint, and name the step that it is.

    {"cairn": {"run": "llama", "step": 1200}}
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def write(path: Path, run: str, step: int) -> None:
    """By a rename, for several ranks may write the same, and each may be killed at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"cairn": {"run": run, "step": step}}) + "\n")
    os.replace(part, path)


def read(path: Path) -> tuple[str | None, int | None]:
    """The run and the step; None of both: it is another file."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(1000))["cairn"]
        return content["run"], int(content["step"])
    except (UnicodeDecodeError, ValueError, KeyError, TypeError):
        return None, None
