"""Rows of figures, as all measurements give them, and ratios of rows of the same round.

A row has `measure`, `subject` and `round`, what tells it from others (`work`, `tensors`, `bytes`, ...), and figures in seconds,
bytes, or bytes per second. A ratio is formed of two rows of the same round, so that what disturbs the machine for a while, as its
neighbours do, disturbs both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """Of one figure over its repeats."""

    median: float
    least: float
    most: float
    repeats: int


def spread(values: list[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values), len(values)) if values else None


class Rows:
    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = rows if rows is not None else []

    def add(self, measure: str, subject: str, round: int, **figures: Any) -> Row:
        self.rows.append({"measure": measure, "subject": subject, "round": round, **figures})
        return self.rows[-1]

    def where(self, **wanted: Any) -> list[Row]:
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def values(self, key: str, **wanted: Any) -> list[float]:
        return [row[key] for row in self.where(**wanted) if key in row]

    def failures(self) -> dict[tuple[str, str], str]:
        """By measurement and subject: why it could not."""
        return {(row["measure"], row["subject"]): row["failed"] for row in self.rows if "failed" in row}

    def ratios(self, key: str, over: str, above: Row, below: Row) -> list[float]:
        """``key`` of the rows ``above`` by ``over`` of the row ``below`` of the same round, else by the median of those."""
        bottom = {row["round"]: row[over] for row in self.where(**below) if over in row}
        if not bottom:
            return []
        usual = statistics.median(bottom.values())
        pairs = [(row[key], bottom.get(row["round"], usual)) for row in self.where(**above) if key in row]
        return [top / under for top, under in pairs if under]
