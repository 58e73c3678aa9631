"""Counts of what a module's tests did, as a table."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import pytest


class Tally:
    def __init__(self, title: str, keys: list[str], counts: list[str]) -> None:
        self._title, self._keys, self._counts = title, keys, counts
        self._rows: dict[tuple[str, ...], Counter[str]] = {}
        self._begin = time.monotonic()

    def add(self, key: tuple[str, ...], **counts: int) -> None:
        self._rows.setdefault(key, Counter()).update(counts)

    def table(self) -> str:
        """A row for each key, sorted, and the sums: words left, numbers right."""
        total = sum(self._rows.values(), Counter[str]())
        rows = [[*self._keys, *self._counts]]
        for key, row in [*sorted(self._rows.items()), (("total", *[""] * (len(self._keys) - 1)), total)]:
            rows.append([*key, *(str(row[count]) for count in self._counts)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self._title}, {time.monotonic() - self._begin:.0f} s"]
        for cells in rows:
            padded = [
                cell.ljust(width) if index < len(self._keys) else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(["", *lines, ""])


@contextlib.contextmanager
def shown(request: pytest.FixtureRequest, title: str, keys: list[str], counts: list[str]) -> Iterator[Tally]:
    """A tally that is printed at the end, also where pytest captures what tests print."""
    made = Tally(title, keys, counts)
    yield made
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(made.table())
