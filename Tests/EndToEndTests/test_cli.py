"""The command line tool against a real daemon, as an operator and a script use it: what it shows, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from jobs import state
from machine import binary_beside, cli, until
from real_daemon import Cluster, Daemon

STEPS = 4


@pytest.fixture(params=[1, 2], ids=["one tier", "two tiers"])
def daemon(request: pytest.FixtureRequest, cluster: Cluster) -> Daemon:
    """With a run of four committed steps and no trainer."""
    keep = "{local: {keep: 9}, global: {keep: 9}}"
    daemon = cluster.daemon(tiers=request.param, retention=keep)
    with daemon.open() as checkpointer:
        for step in range(1, STEPS + 1):
            checkpointer.save(step, state(step, 4)).wait("committed", timeout=30)

    def recorded() -> bool:
        listed = json.loads(cli(daemon, "ls", "run", "--json"))["runs"][0]["steps"]
        return all("local" in step["tiers"] for step in listed)

    # A local tier beside the global one gets its copy of the commit right after the rank is told.
    until("the local tier knows all commits", recorded)
    return daemon


def rows(text: str) -> list[list[str]]:
    """A table's rows, without its head."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines()[1:]]


def test_steps_come_newest_first(daemon: Daemon) -> None:
    assert [row[0] for row in rows(cli(daemon, "ls", "run"))] == ["4", "3", "2", "1"]
    assert rows(cli(daemon, "ls"))[0][:3] == ["run", "4", "4"]
    told = json.loads(cli(daemon, "ls", "run", "--json"))["runs"][0]
    assert [step["step"] for step in told["steps"]] == [4, 3, 2, 1]
    assert {step["level"] for step in told["steps"]} == {"committed"}


def test_path_is_where_the_files_are(daemon: Daemon) -> None:
    newest, second = (Path(cli(daemon, "path", "run", *step).strip()) for step in ([], ["2"]))
    assert (newest / "rank-00000.safetensors").is_file()
    assert newest.name.startswith("step-4.")
    assert second.name.startswith("step-2.")


def test_show_names_tensors_and_files(daemon: Daemon) -> None:
    shown = cli(daemon, "show", "run", "3")
    assert "step 3" in shown
    assert "rank-00000.safetensors" in shown
    told = json.loads(cli(daemon, "show", "run", "3", "--json"))
    assert {tensor["name"] for tensor in told["tensors"]} == set(state(3, 4)) - {"step"}
    assert told["files"][0]["tensors"] == len(told["tensors"])


def test_verify_reads_every_tier_and_finds_a_flipped_byte(daemon: Daemon) -> None:
    tiers = 1 if daemon.shared is None else 2
    assert cli(daemon, "verify", "run").count("every block is good") == tiers
    committing = "local" if daemon.shared is None else "global"
    with (Path(cli(daemon, "path", "run", "2").strip()) / "rank-00000.safetensors").open("r+b") as file:
        file.seek(1 << 20)
        byte = file.read(1)[0]
        file.seek(1 << 20)
        file.write(bytes([byte ^ 1]))
    shown = cli(daemon, "verify", "run", "2", code=1)
    assert f"on the {committing} tier: 1 bad" in shown
    assert shown.count("every block is good") == tiers - 1
    found = json.loads(cli(daemon, "verify", "run", "2", "--json", code=1))["bad"]
    assert [(Path(bad["path"]).name, bad["block"]) for bad in found] == [("rank-00000.safetensors", 4)]
    assert "every block is good" in cli(daemon, "verify", "run", "3")


def test_a_pinned_step_and_the_newest_cannot_be_deleted(daemon: Daemon) -> None:
    cli(daemon, "pin", "run", "2")
    assert next(row for row in rows(cli(daemon, "ls", "run")) if row[0] == "2")[-1] == "pinned"
    cli(daemon, "delete", "run", "2", code=4)
    cli(daemon, "delete", "run", "4", code=4)
    cli(daemon, "unpin", "run", "2")
    cli(daemon, "delete", "run", "2")
    assert [row[0] for row in rows(cli(daemon, "ls", "run"))] == ["4", "3", "1"]
    cli(daemon, "delete", "run", "2", code=4)
    cli(daemon, "verify", "run", "2", code=4)


def test_what_is_not_there_is_refused(daemon: Daemon) -> None:
    for command in (["ls", "nobody"], ["show", "run", "99"], ["path", "nobody"], ["verify", "run", "99"], ["pin", "run", "99"]):
        cli(daemon, *command, code=4)
    cli(daemon, "ls", "a/b/c", code=2)
    cli(daemon, "verify", "run", "--tier", "memory", code=2)
    cli(daemon, "verify", "run", "--tier", "global", code=4 if daemon.shared is None else 0)


def test_idle_daemon_is_drained_and_counts(daemon: Daemon) -> None:
    assert json.loads(cli(daemon, "drain", "run", "--json")) == {"saves": 0, "bytes": 0, "finished": True}
    metrics = cli(daemon, "metrics").splitlines()
    for level in ("accepted", "staged", "committed"):
        assert f'cairn_saves_total{{level="{level}"}} {STEPS}' in metrics
    assert 'cairn_saves_total{level="failed"} 0' in metrics
    shown = cli(daemon, "status")
    assert "no save in flight" in shown
    assert "no rank connected" in shown


def test_drain_that_gives_up_says_what_is_left(daemon: Daemon) -> None:
    committing = "local" if daemon.shared is None else "global"
    checkpointer = daemon.open()
    with daemon.paused(committing):
        checkpointer.save(9, state(9, 4)).wait("staged", timeout=20)
        assert "1 saves" in cli(daemon, "drain", "run", "--limit", "1", code=1)
    assert cli(daemon, "drain", "run") == "all saves are flushed\n"
    checkpointer.close()


def test_watch_begins_with_what_is_unfinished_and_tells_each_level(daemon: Daemon) -> None:
    committing = "local" if daemon.shared is None else "global"
    command = [str(binary_beside("cairn")), "watch", "run", "--events", "--json", "--socket", daemon.socket]
    with daemon.open() as checkpointer:
        with daemon.paused(committing):
            checkpointer.save(9, state(9, 4)).wait("staged", timeout=20)
            watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert watch.stdout is not None
            events = [json.loads(watch.stdout.readline())]
        while events[-1]["level"] not in ("committed", "failed"):
            events.append(json.loads(watch.stdout.readline()))
        watch.terminate()
        watch.wait(timeout=10)
        watch.stdout.close()
    assert {event["step"] for event in events} == {9}
    levels = list(dict.fromkeys(event["level"] for event in events))
    assert levels[-1] == "committed"
    assert levels == [level for level in ("staged", "local", "global", "committed") if level in levels]


def test_no_daemon_is_said_with_what_to_do(folder: Path) -> None:
    command = [str(binary_beside("cairn")), "status", "--socket", str(folder / "nobody")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "start it with" in done.stderr


def test_advise_says_how_often_to_save(daemon: Daemon) -> None:
    told = json.loads(cli(daemon, "advise", "run", "--mtbf", "6h", "--json"))
    assert told["saves"] == STEPS
    assert 0 < told["dalyMs"] <= told["bestMs"]
    assert 0 < told["usefulNowPpm"] <= told["usefulBestPpm"] < 1_000_000
    shown = cli(daemon, "advise", "run")
    assert "save every" in shown
    assert "a failure every 1d 0h" in shown
    assert "no run" in cli(daemon, "advise", "other", code=4)
    assert "--mtbf" in cli(daemon, "advise", "run", "--mtbf", "often", code=2)
