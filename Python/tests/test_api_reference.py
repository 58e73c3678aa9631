"""Docs/api.md is what the docstrings say, and each public name has one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cairn

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import api_reference  # noqa: E402


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "api_reference.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_public_name_and_method_has_a_docstring() -> None:
    assert api_reference.without_docstring() == []


def test_each_public_name_is_in_it() -> None:
    shown = (ROOT / "Docs" / "api.md").read_text()
    of_the_package = {name for name, _, _ in api_reference.Module.of("cairn").public()}
    assert of_the_package == set(cairn.__all__)
    for name in api_reference.MODULES:
        assert f"\n## {name}\n" in shown
        for public, _, _ in api_reference.Module.of(name).public():
            assert f"\n### {public}\n" in shown

