"""Retention on real daemons: what stays on each tier, what `cairn gc --dry-run` says of it before, and eviction of a full tier."""

from __future__ import annotations

import json
from typing import Any

from jobs import state
from machine import Mounts, cli, until
from real_daemon import Cluster, Daemon


def gc(daemon: Daemon, *arguments: str) -> dict[str, dict[int, tuple[bool, str]]]:
    """By tier and step: whether it stays, and by which rule."""
    told = json.loads(cli(daemon, "gc", *arguments, "--json"))["runs"]
    return {
        tier["tier"]: {step["step"]: (step["kept"], step["rule"]) for step in tier["steps"]}
        for run in told for tier in run["tiers"]
    }  # fmt: skip


def held(daemon: Daemon) -> dict[str, list[int]]:
    """The steps on each tier."""
    steps: list[dict[str, Any]] = json.loads(cli(daemon, "ls", "run", "--json"))["runs"][0]["steps"]
    return {tier: sorted(step["step"] for step in steps if tier in step["tiers"]) for tier in ("local", "global")}


def save(daemon: Daemon, last: int, mebibytes: int = 4, **metadata: list[str]) -> None:
    with daemon.open() as checkpointer:
        for step in range(1, last + 1):
            said = {key: values[step - 1] for key, values in metadata.items()}
            checkpointer.save(step, state(step, mebibytes), metadata=said).wait("committed", timeout=30)


def test_each_tier_keeps_as_many_as_it_says(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, retention="{local: {keep: 2}, global: {keep: 4}}")
    save(daemon, 8)
    until("what is kept is there, and no more", lambda: held(daemon) == {"local": [7, 8], "global": [5, 6, 7, 8]})


def test_a_dry_run_says_what_is_done_then(cluster: Cluster) -> None:
    """Saved under a rule that keeps all; then the daemon starts with narrower ones."""
    daemon = cluster.daemon(tiers=2, retention="{local: {keep: 20}, global: {keep: 20}}")
    save(daemon, 9, loss=["5", "1", "4", "x", "3", "2", "9", "9", "9"])
    until("all copies are recorded", lambda: len(held(daemon)["local"]) == 9)
    cli(daemon, "pin", "run", "1")
    daemon.stop()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(
        "retention: {local: {keep: 20}, global: {keep: 20}}",
        "retention: {local: {keep: 3}, global: {keep: 2, keepPeriod: 4, best: {metric: loss, count: 2}}}"))  # fmt: skip
    daemon.start()
    planned = gc(daemon, "run", "--dry-run")
    kept = {1: "pinned", 2: "best", 4: "keepPeriod", 6: "best", 8: "keep", 9: "newest"}
    assert planned["global"] == {step: (step in kept, kept.get(step, "noRule")) for step in range(1, 10)}
    newest = {7: "keep", 8: "keep", 9: "newest"}
    assert planned["local"] == {step: (step in newest, newest.get(step, "noRule")) for step in range(1, 10)}
    assert len(held(daemon)["global"]) == len(held(daemon)["local"]) == 9, "nothing was removed"
    shown = cli(daemon, "gc", "run", "--dry-run")
    assert "would go" in shown
    assert "number 1 by loss, least first: 1" in shown
    assert gc(daemon, "run") == planned
    assert held(daemon)["global"] == sorted(kept)
    left = gc(daemon)
    assert {tier: set(steps) for tier, steps in left.items()} == {"local": {7, 8, 9}, "global": set(kept)}, "of all runs"
    assert all(kept for steps in left.values() for kept, _ in steps.values())


def test_a_full_local_tier_gives_up_copies_of_what_is_committed(mounts: Mounts, cluster: Cluster) -> None:
    shared = cluster.folder / "global"
    rules = "{local: {keep: 20, highWatermark: 60, lowWatermark: 30}, global: {keep: 20}}"
    daemon = Daemon(cluster.folder / "full", shared, retention=rules)
    cluster.daemons.append(daemon)
    where = mounts.tmpfs("64M") / "cairn"
    daemon.config.write_text(daemon.config.read_text().replace(f"paths: [{daemon.local}]", f"paths: [{where}]"))
    daemon.start()
    # Of 64 MiB six steps take 48: above 60 %. Below 30 % there is room for two.
    save(daemon, 6, mebibytes=8)
    left = {"local": [5, 6], "global": [1, 2, 3, 4, 5, 6]}
    until("the local tier is below its low watermark", lambda: held(daemon) == left, seconds=40)
    until("it says why", lambda: "the global tier holds it" in daemon.log.read_text())
