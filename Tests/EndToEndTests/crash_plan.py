"""When the power goes, and of what: a plan drawn from a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from names import CREATE, DELETE, MOVED_TO

FAULTS = {"local": ["local"], "global": ["global"], "node": ["local", "global"]}
"""Which tiers lose power."""
DATA, SUMS, MANIFEST = r"rank-\d+\.safetensors$", r"rank-\d+\.crc$", r"rank-\d{5}-[0-9a-f]{32}\.json$"


@dataclass(frozen=True)
class Point:
    """A kind of moment: a name of this form appears or goes on a tier, or else what its own name says, and up to so much later."""

    spread_seconds: float
    tier: str | None = None
    happens: Callable[[int, str], bool] = lambda kind, name: False


def _named(tier: str, kinds: int, form: str, spread_seconds: float = 0.004) -> Point:
    compiled = re.compile(form)
    return Point(spread_seconds, tier, lambda kind, name: bool(kind & kinds and compiled.search(name)))


POINTS = {
    "copying": Point(0.02),
    "flushing local": _named("local", CREATE, r"^\..*rank-\d+\..*\.part$", 0.02),
    "flushing global": _named("global", CREATE, r"^\.rank-\d+\..*\.part$", 0.02),
    "publishing local": _named("local", CREATE, rf"^\d.*({DATA}|{SUMS}|{MANIFEST})"),
    "publishing global": _named("global", CREATE, rf"^({DATA}|{SUMS}|{MANIFEST})"),
    "told local": Point(0.002),
    "told global": Point(0.002),
    "told committed": Point(0.002),
    "deciding": _named("global", CREATE, r"^\d+-\d+-\d+\.json$"),
    "committing": _named("global", CREATE | MOVED_TO, r"^(checkpoint\.json|step-.*)$"),
    "copying a decision": _named("local", CREATE, r"^\d+-\d+-\d+\.json$"),
    "retention local": _named("local", DELETE, MANIFEST),
    "retention global": _named("global", MOVED_TO, r"^\.gone-"),
    "recovery": Point(0.4),
}


class Plan:
    """All of a crash that chance decides.

    Attributes:
        volatile: the drives' caches are lost as well.
        point: the kind of moment; a recovery is cut short after a crash at ``first``, whichever other point that is.
        skip: a moment of that kind comes with each save: so many of them are let pass.
        alone: the node comes back before the global tier does.
    """

    def __init__(self, seed: int, point: str | None = None) -> None:
        self.seed = seed
        self.random = chance = random.Random(seed)
        # In turn, so that few crashes have some of each; 3 and 14 have no divisor, so each point comes with each fault.
        self.fault = list(FAULTS)[seed % len(FAULTS)]
        self.point = point or list(POINTS)[seed % len(POINTS)]
        self.first = chance.choice(list(POINTS)[:-1]) if self.point == "recovery" else self.point
        self.volatile = chance.random() < 0.4
        self.world = chance.randint(1, 3)
        self.kibibytes = chance.choice([64, 1500, 4000, 10_000]) // self.world
        self.keep = {"local": chance.randint(1, 3), "global": chance.randint(1, 3)}
        self.io = chance.choice(["auto", "auto", "threads"])
        self.direct = chance.choice(["auto", "auto", "off"])
        self.delay = 0.0 if chance.random() < 0.4 else chance.uniform(0, POINTS[self.point].spread_seconds)
        self.skip = chance.randint(0, 4)
        self.alone = self.fault == "node" and chance.random() < 0.2
        self.filesystem = chance.choice(["xfs", "xfs", "ext4"])

    def __str__(self) -> str:
        lost = "power and drive cache" if self.volatile else "power"
        return (
            f"seed {self.seed}: {self.filesystem} of {self.fault} loses {lost} at '{self.point}' + {self.delay * 1000:.1f} ms"
            f"; {self.world} ranks of {self.kibibytes} KiB; keep {self.keep}; io {self.io}, direct {self.direct}"
            f"; again: make crash CRASHES=1 KILLS=0 SEED={self.seed}"
        )
