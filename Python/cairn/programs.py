"""The commands ``cairn`` and ``cairnd`` of an environment that has the wheel with the daemon (scripts/wheel_with_daemon.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

FOLDER = Path(__file__).parent / "bin"
"""Where that wheel has both programs, and beside them the libraries they need."""


def cairn() -> NoReturn:
    """Become the CLI."""
    _become("cairn")


def cairnd() -> NoReturn:
    """Become the daemon."""
    _become("cairnd")


def _become(name: str) -> NoReturn:
    program = str(FOLDER / name)
    try:
        os.execv(program, [program, *sys.argv[1:]])
    except OSError as failure:
        sys.exit(f"{name}: cannot start '{program}': {failure.strerror}. Install the wheel anew (`pip install --force-reinstall`)")
