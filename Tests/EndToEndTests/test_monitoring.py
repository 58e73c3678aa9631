"""What the daemon tells of its saves: history and timeline, live view, metrics, the command after a commit, the journal."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import state
from machine import binary_beside, cli, status, until
from real_daemon import ROOT, Cluster, Daemon

RULES = ROOT / "monitoring"


def both_ranks(daemon: Daemon, steps: list[int], run: str = "run", mebibytes: int = 4) -> None:
    """A world of two saves each step until it is committed; rank 1 saves four times as much."""
    attempt = secrets.token_hex(8)
    ranks = [daemon.open(run, rank=rank, world_size=2, local_world_size=2, attempt=attempt) for rank in range(2)]
    for step in steps:
        saves = [rank.save(step, state(step, mebibytes * (1 + 3 * number))) for number, rank in enumerate(ranks)]
        for save in saves:
            save.wait("committed", timeout=30)
    for rank in ranks:
        rank.close()


def timeline(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    saves: list[dict[str, Any]] = json.loads(cli(daemon, "timeline", "run", "--json", *arguments))["saves"]
    return saves


def watched(cluster: Cluster, tiers: int = 2, **settings: Any) -> Daemon:
    cluster.folder.mkdir(exist_ok=True)
    return cluster.daemon(tiers=tiers, state=cluster.folder / "state", **settings)


def counted(daemon: Daemon) -> dict[str, float]:
    """Samples by name and labels."""
    lines = [line for line in cli(daemon, "metrics").splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_history_survives_a_kill_and_a_torn_line(cluster: Cluster) -> None:
    daemon = watched(cluster)
    both_ranks(daemon, [1, 2, 3])
    saves = timeline(daemon)
    assert [(save["step"], save["rank"]) for save in saves] == [(step, rank) for step in (1, 2, 3) for rank in (0, 1)]
    for save in saves:
        assert save["level"] == "committed"
        assert 0 < save["stagedUs"] <= save["localUs"] <= save["committedUs"]
        assert save["globalUs"] <= save["committedUs"]
        assert save["callUs"] > 0
        assert save["fenceUs"] >= 0
    assert saves[1]["bytes"] > 3 * saves[0]["bytes"]
    assert abs(saves[0]["acceptedMs"] / 1000 - time.time()) < 120

    (file,) = (cluster.folder / "state").glob("history-*")
    until("all lines are written", lambda: file.read_bytes().count(b"\n") == 6)
    daemon.stop(signal.SIGKILL)
    with file.open("ab") as history:
        history.write(b'01234567 {"uid":0,"run"')
    daemon.start()
    until("the history is read", lambda: len(timeline(daemon)) == 6)
    assert timeline(daemon) == saves
    assert "1 lines of the history were torn" in daemon.log.read_text()
    both_ranks(daemon, [4])
    assert [save["step"] for save in timeline(daemon, "--last", "2")] == [3, 3, 4, 4]
    daemon.stop()
    daemon.start()
    until("the history is read", lambda: len(timeline(daemon)) == 8)
    # The age of the last commit, too.
    assert 0 < counted(daemon)[f'cairn_last_commit_age_seconds{{uid="{os.getuid()}",run="run"}}'] < 60


def test_history_is_bounded(cluster: Cluster) -> None:
    daemon = watched(cluster, tiers=1, history="{size: 64KiB}")
    with daemon.open() as checkpointer:
        for step in range(1, 481):
            checkpointer.save(step, {"x": step}, level="staged").wait("staged", timeout=20)
    newest = timeline(daemon, "--last", "1")[0]
    assert (newest["step"], newest["level"]) == (480, "staged")
    files = list((cluster.folder / "state").glob("history-*"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 64 << 10
    daemon.stop()
    daemon.start()
    until("the newest are read", lambda: timeline(daemon, "--last", "1")[0]["step"] == 480)
    assert 100 < len(timeline(daemon, "--last", "480")) < 480


def test_timeline_as_picture_page_and_table(cluster: Cluster) -> None:
    daemon = watched(cluster)
    both_ranks(daemon, [1, 2])
    svg, page, other = (cluster.folder / name for name in ("out.svg", "out.html", "other.json"))
    cli(daemon, "timeline", "run", "-o", str(svg))
    titles = [element.text or "" for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}title")]
    for rank in range(2):
        for stage in ("staging", "fence wait", "local tier", "global tier", "commit"):
            assert any(title.startswith(f"step 2, rank {rank}, {stage}: ") for title in titles), f"{rank} {stage}"
    other.write_text(cli(daemon, "timeline", "run", "--json").replace('"rank" : 1', '"rank" : 9'))
    cli(daemon, "timeline", "run", "-o", str(page), "--add", str(other))
    assert page.read_text().startswith("<!doctype html>")
    assert "rank 9, staging" in page.read_text()
    shown = cli(daemon, "timeline", "run").splitlines()
    assert shown[0].split()[:4] == ["STEP", "RANKS", "STAGING", "FENCE"]
    assert [line.split()[:2] for line in shown[1:3]] == [["1", "2"], ["2", "2"]]
    assert any("a step is committed after" in line for line in shown)
    cli(daemon, "timeline", "nobody", code=4)
    cli(daemon, "timeline", "run", "-o", "x.png", code=2)
    cli(daemon, "timeline", "run", "--add", str(svg), code=2)


def test_watch_shows_the_rank_that_is_behind(cluster: Cluster) -> None:
    daemon = watched(cluster)
    attempt = secrets.token_hex(8)
    ranks = [daemon.open(rank=rank, world_size=2, local_world_size=2, attempt=attempt) for rank in range(2)]
    with daemon.paused("global"):
        for rank in ranks:
            rank.save(7, state(7, 4))
        both = "[##########] 100% [##########] 100%"
        until("both are on the local tier", lambda: cli(daemon, "watch", "--once").count(both) == 2)
        frame = cli(daemon, "watch", "run", "--once")
        assert "\x1b" not in frame
        assert all(len(line) <= 80 for line in frame.splitlines())
        assert "run  step 7" in frame
        assert "2 of 2 ranks: 2 local" in frame
        assert frame.count("[..........]   0%") == 2
        frames = cli(daemon, "watch", "--interval", "0.2", "--count", "3")
        assert frames.count("staging ") == 3
        told = json.loads(cli(daemon, "watch", "--json", "--once"))
        assert [rank["level"] for rank in told["saves"][0]["ranks"]] == ["local", "local"]
        screen = subprocess.run(
            ["script", "-qec", f"{binary_beside('cairn')} watch --count 2 --interval 0.2 --socket {daemon.socket}", "/dev/null"],
            capture_output=True, timeout=20, check=True,
        ).stdout  # fmt: skip
        assert screen.count(b"\x1b[H") == 2
    for rank in ranks:
        rank.wait_until_finished()
        rank.close()
    assert "no save in flight" in cli(daemon, "watch", "--once")
    assert "step 7 committed" in cli(daemon, "watch", "--once")


def promtool() -> str:
    extracted = ROOT / ".build" / "prometheus" / "usr" / "bin" / "promtool"
    found = shutil.which("promtool") or (str(extracted) if extracted.exists() else None)
    if found is None:
        pytest.skip("no promtool: scripts/setup.sh takes it from Debian's package prometheus")
    return found


def test_metrics_are_what_prometheus_expects(cluster: Cluster) -> None:
    textfile = cluster.folder / "cairn.prom"
    daemon = watched(cluster, metrics=f"{{textfile: {textfile}, interval: 1s}}", onCommit="{command: [/bin/true]}")
    both_ranks(daemon, [1, 2, 3])
    daemon.raw().call("Register", shards=[])
    samples = counted(daemon)
    for stage in ("save_call", "fence_wait", "staging", "commit", "save"):
        assert samples[f"cairn_{stage}_seconds_count"] == 6, stage
        assert samples[f'cairn_{stage}_seconds_bucket{{le="+Inf"}}'] == 6
    assert samples['cairn_flush_seconds_count{tier="global"}'] == 6
    assert samples["cairn_staging_seconds_sum"] < samples["cairn_save_seconds_sum"]
    assert samples['cairn_saves_total{level="committed"}'] == 6
    assert samples['cairn_failures_total{kind="superseded"}'] == 0
    assert samples['cairn_refused_calls_total{error="NotOpen"}'] == 1
    assert samples['cairn_tier_up{tier="global"}'] == 1
    labels = f'{{uid="{os.getuid()}",run="run"}}'
    assert abs(samples[f"cairn_last_commit_timestamp_seconds{labels}"] - time.time()) < 60

    def written() -> bool:
        return textfile.exists() and 'cairn_saves_total{level="committed"} 6' in textfile.read_text()

    until("the file for node_exporter", written)
    assert textfile.read_text().endswith("\n")
    assert oct(textfile.stat().st_mode & 0o777) == "0o644"
    assert list(cluster.folder.glob(".cairn.prom*")) == []
    command = [promtool(), "check", "metrics"]
    checked = subprocess.run(command, input=cli(daemon, "metrics"), capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == ""


def test_alert_rules_fire_as_they_say(cluster: Cluster) -> None:
    tool = promtool()
    for command in (["check", "rules", "cairn-alerts.yaml"], ["test", "rules", "cairn-alerts-test.yaml"]):
        done = subprocess.run([tool, *command], cwd=RULES, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    # What rules and dashboard ask for is what a daemon tells.
    daemon = watched(cluster, onCommit="{command: [/bin/true]}", compression="zstd")
    both_ranks(daemon, [1])
    told = {re.split("[ {]", line)[0] for line in cli(daemon, "metrics").splitlines()}
    asked = (RULES / "cairn-alerts.yaml").read_text() + (RULES / "cairn-dashboard.json").read_text()
    assert json.loads((RULES / "cairn-dashboard.json").read_text())["panels"]
    unknown = {name for name in re.findall(r"\bcairn_[a-z_]+", asked)} - told
    assert unknown == {"cairn_refused_calls_total"} & unknown, unknown


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def script(folder: Path, text: str) -> Path:
    path = folder / "after-commit"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_command_runs_after_each_commit(cluster: Cluster) -> None:
    words = '$CAIRN_RUN $CAIRN_STEP $CAIRN_SEQUENCE $(ls "$CAIRN_FOLDER" | grep -c safetensors) $(nice) $1'
    made = script(cluster.folder, f'echo "{words}" >> {cluster.folder}/seen')
    daemon = watched(cluster, onCommit=f"{{command: [{made}, word]}}")
    both_ranks(daemon, [1, 2])
    seen = cluster.folder / "seen"
    until("both commands have run", lambda: seen.exists() and len(seen.read_text().splitlines()) == 2)
    assert seen.read_text().splitlines() == ["run 1 1-1 2 19 word", "run 2 1-2 2 19 word"]
    until("they are counted", lambda: counted(daemon)['cairn_commands_total{result="ok"}'] == 2)


def test_a_command_that_hangs_is_ended_with_its_children(cluster: Cluster) -> None:
    made = script(cluster.folder, f"echo begun $CAIRN_STEP; sleep 600 & echo $! > {cluster.folder}/child; wait")
    daemon = watched(cluster, tiers=1, onCommit=f"{{command: [{made}], timeout: 1s, queue: 2}}")
    with daemon.open() as checkpointer:
        for step in range(1, 6):
            checkpointer.save(step, {"x": step}).wait("committed", timeout=20)
        log = daemon.log.read_text
        until("the first one is ended", lambda: "step 1: the command after the commit failed: ended after 1 s" in log())
        assert "it printed: begun 1" in log()
        until("the oldest that waited was dropped", lambda: "step 2: no command is run after this commit" in log())
        until("another one began", lambda: (cluster.folder / "child").exists())
        child = int((cluster.folder / "child").read_text())
        # A daemon that ends does not wait for it, nor leave it.
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 10
        until("its child is gone", lambda: not alive(child))


def test_the_journal_gets_fields(cluster: Cluster) -> None:
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(cluster.folder / "journal"))
    journal.settimeout(0.2)
    entries: list[dict[str, str]] = []

    def listen() -> None:
        while True:
            try:
                entries.append(dict(line.split("=", 1) for line in journal.recv(1 << 16).decode().splitlines()))
            except TimeoutError:
                continue
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    daemon = watched(cluster, environment={"CAIRN_JOURNAL_SOCKET": str(cluster.folder / "journal")})
    both_ranks(daemon, [3])

    def logged(words: str, fields: dict[str, str]) -> Callable[[], dict[str, str] | None]:
        def found() -> dict[str, str] | None:
            return next((entry for entry in list(entries) if words in entry["MESSAGE"] and fields.items() <= entry.items()), None)

        return found

    commit = until("the commit is logged", logged("committed step 3", {}))
    assert commit is not None
    fields = {"CAIRN_RUN": "run", "CAIRN_STEP": "3", "CAIRN_SAVE": "1-3-1", "CAIRN_TIER": "global", "PRIORITY": "5"}
    assert fields.items() <= commit.items()
    assert commit["SYSLOG_IDENTIFIER"] == "cairnd"
    attempt = secrets.token_hex(8)
    gone = daemon.open(rank=0, world_size=1, attempt=attempt)
    with daemon.paused("stager"):
        gone.save(4, {"x": np.zeros(10)}, lazy=True)
        gone._link.session.hang_up()
        failed = until("a rank's failure is logged", logged("save failed", {"CAIRN_STEP": "4", "CAIRN_RANK": "0"}))
    assert failed is not None
    assert failed["PRIORITY"] == "4"
    assert status(daemon)["daemon"]["pid"] == daemon.pid
    gone.close()
    daemon.stop()
    journal.close()
