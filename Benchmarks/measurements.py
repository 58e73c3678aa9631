"""What is measured, each into rows of figures. All subjects of a measurement take turns in one run, in another order each round."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from daemon import CHUNK, LEAST_POOL, Daemon
from limits import Drive, Memcpy
from machine import available, cpu_seconds, family, forget_pages, own_memory
from ranks import Ranks
from results import Row, Rows
from subjects import DCP_ASYNC, Failed, Subject, peer
from subjects.base import WAIT_SECONDS, reason
from subjects.ours import Cairn
from workload import MIB, UNIT_SECONDS, State, Step, tiny_tensors, training_state

GIB = 1 << 30
FENCE_SECONDS = 0.5
"""Compute between save() and the fence."""
ALONE_SECONDS = 0.25
"""How long the step is watched without a save, before and after each save."""
PERIOD_SECONDS = 10.0
"""Compute between two saves, where throughput is measured."""


@dataclass
class Bench:
    """What all measurements share. ``size``: bytes of the state that most of them save. ``peers``: those to measure."""

    binaries: Path
    folder: Path
    rounds: int
    size: int
    most: int
    peers: Sequence[str]
    counts: Sequence[int]
    quick: bool = False
    rows: Rows = field(default_factory=Rows)
    _count: int = 0

    def __post_init__(self) -> None:
        self.drive = Drive(self.folder, min(max(self.size, 64 * MIB), GIB), quick=self.quick)
        self.memcpy = Memcpy(min(self.size, GIB))

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def limits(self, measure: str, round: int, *, reads: bool = False) -> Row:
        figures = {"memcpy": self.memcpy.speed(), "write": self.drive.write()} | ({"read": self.drive.read()} if reads else {})
        return self.rows.add(measure, "limits", round, **figures)

    def place(self, name: str) -> Path:
        """A new folder on the drive that is measured."""
        self._count += 1
        made = self.folder / f"{self._count}-{''.join(letter if letter.isalnum() else '-' for letter in name)}"
        made.mkdir()
        return made

    def daemon(self, *, pool: int, tiers: Sequence[str] = ("local", "global"), keep: int = 1) -> Daemon:
        return Daemon(self.binaries, self.place("daemon"), pool=pool, tiers=tiers, keep=keep)

    @contextmanager
    def subjects(self, measure: str, state: State, names: Sequence[str], daemon: Daemon) -> Iterator[list[Subject]]:
        """Cairn and those of ``names`` that can be set up, each warmed up by one save; of the others it is written down why not."""
        with ExitStack() as stack:
            ready: list[Subject] = []
            makers: list[tuple[str, Callable[[], Subject]]] = [("cairn", lambda: Cairn(state, self.place("cairn"), daemon))]
            makers += [(name, lambda name=name: peer(name)(state, self.place(name))) for name in names]  # type: ignore[misc]
            for name, make in makers:
                try:
                    subject = make()
                    stack.callback(quietly, subject.close)
                    pending = subject.save()
                    pending.fence()
                    pending.finish()
                    ready.append(subject)
                except Exception as failure:
                    if name == "cairn":
                        raise
                    self.failed(measure, name, failure)
            yield ready

    def failed(self, measure: str, name: str, failure: Exception) -> None:
        text = str(failure) if isinstance(failure, Failed) else reason(failure)
        self.rows.add(measure, name, 0, failed=text)
        self.say(f"{name}: fails: {text}")

    def turns(self, subjects: list[Subject], round: int) -> list[Subject]:
        """The order of a round."""
        cut = round % len(subjects) if subjects else 0
        return subjects[cut:] + subjects[:cut]

    def attempt(self, measure: str, subject: Subject, subjects: list[Subject], act: Callable[[], object]) -> None:
        """A peer that fails once is not asked again in this measurement."""
        try:
            act()
        except Exception as failure:
            if isinstance(subject, Cairn):
                raise
            self.failed(measure, subject.name, failure)
            subjects.remove(subject)
        finally:
            subject.tidy()


def quietly(act: Callable[[], object]) -> None:
    """A peer's own trouble at its end is not what is measured."""
    try:
        act()
    except Exception as failure:
        print(f"  (at the end: {reason(failure)})", flush=True)


def spent(subject: Subject) -> float:
    """Processor's seconds so far of this process, its children, and the subject's daemon."""
    return cpu_seconds({*family(os.getpid()), *subject.helpers()})


def one_save(subject: Subject, step: Step | None, *, fence_after: float = FENCE_SECONDS) -> Row:
    """Save, compute for a step, fence, and go on computing until the save has ended. Without a step: fence and wait.

    `call`, `fence`: seconds that the trainer was held up. `lost`: elapsed until the end, less what the units of compute done
    meanwhile take alone. `accepted`: when save() had returned; it and all levels in seconds from the call on."""
    gc.collect()
    alone = step.alone(ALONE_SECONDS) if step is not None else 0.0
    used = spent(subject) if step is None else 0.0
    units = 0
    began = time.monotonic()
    pending = subject.save()
    called = time.monotonic()
    if step is not None and not pending.ended.is_set():
        units = round(fence_after / alone)
        step.units(units)
    waiting = time.monotonic()
    pending.fence()
    fenced = time.monotonic()
    if step is not None:
        while not pending.ended.is_set() and time.monotonic() - began < WAIT_SECONDS:
            step.unit()
            units += 1
    ended = time.monotonic()
    pending.finish()
    row: Row = {level: at - began for level, at in pending.at.items()}
    row |= {"call": called - began, "fence": fenced - waiting, "blocked": called - began + fenced - waiting}
    row |= {"accepted": called - began, "bytes": subject.state.bytes}
    if step is None:
        row["cpu"] = spent(subject) - used
    else:
        alone = (alone + step.alone(ALONE_SECONDS)) / 2
        row |= {"lost": ended - began - units * alone, "units": units, "alone": alone}
    return row


def shown(row: Row) -> str:
    names = ("call", "fence", "lost", "staged", "durable", "committed", "loaded", "cpu")
    return ", ".join(f"{name} {row[name] * 1000:.1f} ms" if abs(row[name]) < 0.1 else f"{name} {row[name]:.2f} s"
                     for name in names if name in row)  # fmt: skip


def saves(bench: Bench) -> None:
    """Saves of one state by all subjects: while the trainer does nothing, launches small operations, multiplies matrices on all
    cores, and holds the GIL. A synchronous subject blocks for as long whatever comes after it, so it is measured once a round."""
    state = training_state(bench.size)
    steps = {name: Step(name) for name in ("launch", "matmul", "python")}
    with bench.daemon(pool=whole(state.bytes)) as daemon, bench.subjects("saves", state, bench.peers, daemon) as subjects:
        for round in range(bench.rounds):
            bench.limits("saves", round)
            for work in ("idle", *steps):
                for subject in bench.turns(list(subjects), round):
                    if work != "idle" and not subject.asynchronous:
                        continue
                    if work == "python" and round and not isinstance(subject, Cairn):
                        continue  # takes up to half a minute

                    def act(subject: Subject = subject, work: str = work, round: int = round) -> None:
                        row = bench.rows.add("saves", subject.name, round, work=work, **one_save(subject, steps.get(work)))
                        bench.say(f"round {round + 1}, {work}: {subject.name}: {shown(row)}")

                    bench.attempt("saves", subject, subjects, act)


def whole(size: int) -> int:
    """A pool for the state and its file's header: less than two chunks more than the state."""
    return max(LEAST_POOL, (size // CHUNK + 2) * CHUNK)


def one_tier(bench: Bench) -> None:
    """Saves to one tier that has the drive for itself: a global one, and a local one with a pool of a quarter of the state."""
    state = training_state(bench.size)
    with (
        bench.daemon(pool=whole(state.bytes), tiers=["global"]) as alone,
        bench.daemon(pool=state.bytes // 4 // CHUNK * CHUNK, tiers=["local"]) as small,
    ):
        ours = [
            Cairn(state, bench.place("alone"), alone, name="cairn, global tier alone"),
            Cairn(state, bench.place("small"), small, name="cairn, a quarter's pool"),
        ]
        try:
            for subject in ours:
                one_save(subject, None)
            for round in range(bench.rounds):
                bench.limits("one tier", round)
                for subject in ours:
                    row = bench.rows.add("one tier", subject.name, round, pool=subject.daemon.pool, **one_save(subject, None))
                    bench.say(f"round {round + 1}: {subject.name}: {shown(row)}")
                    subject.tidy()
        finally:
            for subject in ours:
                subject.close()


def throughput(bench: Bench) -> None:
    """Units of compute a second with a save every ten seconds of compute, over those without."""
    seconds = PERIOD_SECONDS if not bench.quick else 1.0
    state = training_state(bench.size)
    names = [name for name in bench.peers if name in DCP_ASYNC]
    with bench.daemon(pool=whole(state.bytes)) as daemon, bench.subjects("throughput", state, names, daemon) as subjects:
        for work in ("python", "matmul"):
            step = Step(work)
            for round in range(min(bench.rounds, 2)):
                units = round_units(step, seconds)
                for subject in bench.turns(list(subjects), round):

                    def act(subject: Subject = subject, step: Step = step, round: int = round, units: int = units) -> None:
                        relative = one_period(subject, step, units)
                        bench.rows.add("throughput", subject.name, round, work=step.name, relative=relative)
                        bench.say(f"round {round + 1}, {step.name}: {subject.name}: {relative:.1%} of training without saves")

                    bench.attempt("throughput", subject, subjects, act)


def one_period(subject: Subject, step: Step, units: int) -> float:
    """Seconds of so much compute without a save, as half of it shows, before and after, over seconds with a save at its begin."""
    some = max(1, units // 4)
    before = timed(lambda: step.units(some))
    began = time.monotonic()
    pending = subject.save()
    first = min(units, int(FENCE_SECONDS / UNIT_SECONDS))
    step.units(first)
    pending.fence()
    step.units(units - first)
    taken = time.monotonic() - began
    pending.finish()
    alone = before + timed(lambda: step.units(some))
    return alone / (2 * some) * units / taken


def round_units(step: Step, seconds: float) -> int:
    return max(2, round(seconds / step.alone(ALONE_SECONDS)) // 2 * 2)


def timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def restores(bench: Bench) -> None:
    """Loads into the state's own tensors: from the daemon's memory, and cold, with nothing in the page cache. Each is checked."""
    state = training_state(bench.size)
    sums = state.sums()
    names = [name for name in bench.peers if name not in DCP_ASYNC]  # they load as dcp.save
    with bench.daemon(pool=whole(state.bytes)) as daemon, bench.subjects("restores", state, names, daemon) as subjects:

        def load(subject: Subject, kind: str, round: int) -> None:
            state.forget()
            loaded = timed(subject.load)
            if state.sums() != sums:
                raise RuntimeError(f"{subject.name} gave back other bytes than were saved")
            row = bench.rows.add("restores", subject.name, round, kind=kind, loaded=loaded, bytes=state.bytes)
            bench.say(f"round {round + 1}, {kind}: {subject.name}: {shown(row)}")

        for round in range(bench.rounds):
            bench.limits("restores", round, reads=True)
            for subject in bench.turns(list(subjects), round):
                if isinstance(subject, Cairn):
                    if round:  # the daemon was started anew, and has nothing in memory
                        subject.save().finish()
                    load(subject, "memory", round)
                subject.cool()
                bench.attempt("restores", subject, subjects, lambda subject=subject, round=round: load(subject, "cold", round))  # type: ignore[misc]


def sharded(bench: Bench) -> None:
    """A step that two ranks saved, each half of the rows of every tensor, is restored cold by one: each tensor whole."""
    for round in range(bench.rounds):
        run = f"sharded-{round}"
        with bench.daemon(pool=whole(bench.size)) as daemon:
            with Ranks(bench.place("ranks"), daemon, run, 2, bench.size, sharded=True) as ranks:
                saved = [answer["sums"] for answer in ranks.ask("save", 1)]
                ranks.ask("finish")
            daemon.stop()
            for tier in daemon.folders:
                forget_pages(tier)
            daemon.start()
            bench.limits("sharded", round, reads=True)
            with Ranks(bench.place("ranks"), daemon, run, 1, bench.size, sharded=True) as ranks:
                (answer,) = ranks.ask("restore")
        if answer["sums"] != [sum(parts) for parts in zip(*saved, strict=True)]:
            raise RuntimeError("one rank restored other bytes than two have saved")
        row = bench.rows.add("sharded", "cairn", round, loaded=answer["loaded"], bytes=answer["bytes"])
        bench.say(f"round {round + 1}, saved by two ranks: cairn: {shown(row)}")


def tiny(bench: Bench) -> None:
    """Tensors of 1 KiB, the more the harder: what each tensor costs. The peers with the smallest number only."""
    for count in bench.counts:
        state = tiny_tensors(count)
        names = bench.peers if count == bench.counts[0] else ()
        with bench.daemon(pool=whole(state.bytes)) as daemon, bench.subjects("tiny", state, names, daemon) as subjects:
            sums = state.sums()
            for round in range(min(bench.rounds, 2)):
                for subject in bench.turns(list(subjects), round):
                    if round and not isinstance(subject, Cairn):
                        continue  # some take up to a minute

                    def act(subject: Subject = subject, round: int = round, state: State = state, sums: list[int] = sums) -> None:
                        row = one_save(subject, None)
                        if subject.name not in DCP_ASYNC:  # which loads as dcp.save
                            subject.cool()
                            state.forget()
                            row["loaded"] = timed(subject.load)
                            if state.sums() != sums:
                                raise RuntimeError(f"{subject.name} gave back other bytes than were saved")
                        bench.rows.add("tiny", subject.name, round, tensors=len(sums), **row)
                        bench.say(f"round {round + 1}, {len(sums)} tensors: {subject.name}: {shown(row)}")

                    bench.attempt("tiny", subject, subjects, act)


def memory(bench: Bench) -> None:
    """Extra memory while saving, each subject in a process of its own: the peak beyond the state and the libraries."""
    for name in ("cairn", *bench.peers):
        with bench.daemon(pool=whole(bench.size)) as daemon:
            command = [sys.executable, str(Path(__file__).parent / "footprint.py"), name, str(bench.size), str(bench.place(name)),
                       str(daemon.socket)]  # fmt: skip
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
                if done.returncode != 0:
                    raise Failed(reason(RuntimeError(done.stderr)))
                grown = json.loads(done.stdout.splitlines()[-1])
            except (Failed, subprocess.TimeoutExpired) as failure:
                if name == "cairn":
                    raise
                bench.failed("memory", name, failure)
                continue
            extra = grown["extra"] + (daemon.pool if name == "cairn" else 0)
            row = bench.rows.add("memory", name, 0, extra=extra, trainer=grown["extra"], bytes=grown["bytes"])
            bench.say(f"{name}: {row['extra'] / row['bytes']:.2f} of the state")


def idle_daemon(bench: Bench) -> None:
    """What the daemon costs where nothing is saved, and how soon after its start it answers."""
    pool = 4 * GIB if not bench.quick and available() > 8 * GIB else LEAST_POOL
    state = training_state(min(bench.size, 256 * MIB))
    for round in range(min(bench.rounds, 2)):
        with bench.daemon(pool=pool) as daemon:
            daemon.stop()
            ready = daemon.start(filled=False)
            daemon.wait_filled()
            subject = Cairn(state, bench.place("cairn"), daemon)
            for _ in range(3):
                subject.save().finish()
            subject.load()
            own = own_memory(daemon.pids)
            subject.close()
            time.sleep(1)
            used = cpu_seconds(daemon.pids)
            watched = 1.0 if bench.quick else 5.0
            time.sleep(watched)
            idle = (cpu_seconds(daemon.pids) - used) / watched
            bench.rows.add("daemon", "cairn", round, own=own, idle=idle, ready=ready, pool=daemon.pool)
            bench.say(f"round {round + 1}: ready in {ready:.2f} s, {own / MIB:.0f} MiB beyond the pool, idle {idle:.1%} of a core")


def sizes(bench: Bench) -> None:
    """How a save and restores grow with the state's bytes."""
    room = min(bench.most, available() // 4, shutil.disk_usage(bench.folder).free // 8)
    size = 64 * MIB if bench.quick else 128 * MIB
    while size <= room:
        state = training_state(size)
        with bench.daemon(pool=whole(size)) as daemon:
            curve(bench, "sizes", state, daemon)
        size *= 2


def counts(bench: Bench) -> None:
    """How they grow with the number of tensors, of the same bytes in all: 1 KiB each where there are most."""
    most = max(bench.counts)
    for count in sorted({count for count in (100, 1000, 10_000, 100_000) if count <= most} | {most}):
        state = tiny_tensors(count, each=most // count)
        with bench.daemon(pool=whole(state.bytes)) as daemon:
            curve(bench, "counts", state, daemon)


def curve(bench: Bench, measure: str, state: State, daemon: Daemon) -> None:
    subject = Cairn(state, bench.place(measure), daemon)
    try:
        subject.save().finish()
        for round in range(min(bench.rounds, 2)):
            bench.limits(measure, round)
            row = one_save(subject, None)
            row["loaded"] = timed(subject.load)
            subject.tidy()
            bench.rows.add(measure, subject.name, round, tensors=len(state.tensors), **row)
            bench.say(f"{len(state.tensors)} tensors, {state.bytes / MIB:.0f} MiB: {shown(row)}")
        subject.cool()
        cold = timed(subject.load)
        bench.rows.add(measure, subject.name, 0, tensors=len(state.tensors), bytes=state.bytes, cold=cold)
    finally:
        subject.close()


def every_step(bench: Bench) -> None:
    """A save every step for fifty steps, each step half a second of compute: whether the last cost what the first did."""
    count, seconds = (10, 0.1) if bench.quick else (50, FENCE_SECONDS)
    state = training_state(min(bench.size, 256 * MIB))
    step = Step("launch")
    with bench.daemon(pool=2 * whole(state.bytes), keep=2) as daemon:
        subject = Cairn(state, bench.place("steps"), daemon)
        try:
            subject.save().finish()
            pending = []
            units = max(1, round(seconds / step.alone(0.5)))
            for index in range(count):
                began = time.monotonic()
                save = subject.save()
                called = time.monotonic()
                step.units(units)
                waiting = time.monotonic()
                save.fence()
                ended = time.monotonic()
                blocked = called - began + ended - waiting
                pending.append(save)
                bench.rows.add("steps", "cairn", index, blocked=blocked, step=ended - began, bytes=state.bytes)
                if index % 10 == 9:
                    subject.tidy()
            for save in pending:
                save.finish()
        finally:
            subject.close()
    held = sorted(bench.rows.values("blocked", measure="steps"))
    bench.say(f"{count} steps of {seconds} s, each saved: blocked {held[len(held) // 2] * 1000:.1f} ms (median),"
              f" {held[-1] * 1000:.1f} ms (most)")  # fmt: skip


def many_ranks(bench: Bench) -> None:
    """The same bytes saved by one, two, four and eight ranks at once, from the first call to the last rank's commit."""
    for count in (1, 2, 4, 8) if not bench.quick else (1, 2):
        with (
            bench.daemon(pool=whole(bench.size)) as daemon,
            Ranks(bench.place("ranks"), daemon, f"ranks-{count}", count, bench.size) as ranks,
        ):
            for index in range(min(bench.rounds, 2) + 1):
                if index:
                    bench.limits("ranks", index)
                began = time.monotonic()
                calls = [answer["call"] for answer in ranks.ask("save", index + 1)]
                ends = ranks.ask("finish")
                daemon.drop_deleted()
                if index:
                    row: Row = {level: max(end[level] for end in ends) - began for level in ("staged", "local", "committed")}
                    row = bench.rows.add("ranks", "cairn", index, ranks=count, call=max(calls), bytes=bench.size, **row)
                    bench.say(f"{count} rank(s): {shown(row)}")


Measurement = Callable[[Bench], None]
MEASUREMENTS: dict[str, Measurement] = {
    "saves": saves, "one-tier": one_tier, "throughput": throughput, "restores": restores, "sharded": sharded,
    "tiny": tiny, "memory": memory, "daemon": idle_daemon, "sizes": sizes, "counts": counts, "steps": every_step,
    "ranks": many_ranks,
}  # fmt: skip
