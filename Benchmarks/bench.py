"""`make bench`: Cairn beside its peers and the machine's limits, side by side in one run.

Prints each goal with what was measured (median, least and most over the rounds), writes all rows to a JSON file, and plots where
asked. Docs/performance.md says what each line means. `--only` may be given several times; `--report FILE` prints a run again.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from process import ROOT, prepare


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small states and one round, in about a minute: shows that all works")
    parser.add_argument("--only", action="append", metavar="NAME", help="one measurement (--only help lists them)")
    parser.add_argument("--rounds", type=int, help="default: 3, and 1 with --quick")
    parser.add_argument("--size", type=int, metavar="MIB", help="state of most measurements; default: 700, and 64 with --quick")
    parser.add_argument("--most", type=int, metavar="MIB", default=4096, help="largest state of the curve over sizes, if it fits")
    parser.add_argument("--no-peers", action="store_true", help="Cairn and the limits only")
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/var/tmp")), help="on the drive to measure")
    parser.add_argument("--json", type=Path, default=ROOT / ".build" / "bench.json", help="where all rows go")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots (SVG) there")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="put the figures between the marks of this page")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing: print (and plot) what a run wrote there")
    parser.add_argument("--binaries", type=Path, default=Path(os.environ.get("CAIRN_BIN", ROOT / ".build" / "release")))
    return parser.parse_args()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The run's record: the machine, the limits' settings, and all rows."""
    prepare()
    from machine import about
    from measurements import MEASUREMENTS, Bench
    from subjects import PEERS, settings
    from workload import MIB

    names = given.only or list(MEASUREMENTS)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        raise SystemExit(f"bench: no measurement '{unknown[0]}'; there are {', '.join(MEASUREMENTS)}")
    folder = Path(tempfile.mkdtemp(prefix="cairn-bench.", dir=given.folder))
    # What peers leave in the temporary folder goes with this one.
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    began = time.monotonic()
    record: dict[str, Any] = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    record |= {"quick": given.quick, "machine": about(), "load": os.getloadavg(), "seconds": {}, "broken": {}}
    try:
        bench = Bench(
            binaries=given.binaries,
            folder=folder,
            rounds=given.rounds or (1 if given.quick else 3),
            size=(given.size or (64 if given.quick else 700)) * MIB,
            most=(128 if given.quick else given.most) * MIB,
            peers=[] if given.no_peers else list(PEERS),
            counts=[2000] if given.quick else [20_000, 100_000],
            quick=given.quick,
        )
        record |= {"size": bench.size, "drive": bench.drive.how, "peers": {} if given.no_peers else dict(settings())}
        record["rows"] = bench.rows.rows
        for name in names:
            print(f"\n{name}: {first_line(MEASUREMENTS[name].__doc__)}", flush=True)
            since = time.monotonic()
            try:
                MEASUREMENTS[name](bench)
            except Exception as failure:
                # The others go on: the report says that this one is missing, and the exit status that something is wrong.
                traceback.print_exc()
                record["broken"][name] = f"{type(failure).__name__}: {failure}"
            record["seconds"][name] = time.monotonic() - since
            record |= {"loadAtEnd": os.getloadavg()}
            record["seconds"]["all"] = time.monotonic() - began
            given.json.write_text(json.dumps(record, indent=1) + "\n")  # what there is, should a later one be interrupted
            gc.collect()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def main() -> None:
    given = options()
    # SIGTERM as Ctrl-C: what is open is closed, and the folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.report is not None:
        record = json.loads(given.report.read_text())
    else:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        record = measure(given)
    from report import markdown, show

    show(record)
    if given.report is None:
        print(f"\nall rows: {given.json}")
    if given.docs is not None:
        page = given.docs.read_text()
        before, begin, rest = page.partition("<!-- figures: begin -->\n")
        end = rest.rpartition("<!-- figures: end -->")
        if not begin or not end[1]:
            raise SystemExit(f"bench: '{given.docs}' has no lines '<!-- figures: begin -->' and '<!-- figures: end -->'")
        given.docs.write_text(before + begin + markdown(record) + end[1] + end[2])
    if given.plots is not None:
        from plots import draw

        for path in draw(record, given.plots):
            print(f"plot: {path}")
    if record["broken"]:
        raise SystemExit(f"bench: broken: {record['broken']}")


if __name__ == "__main__":
    # Ended at once: peers leave threads and processes that a normal end would wait for.
    status = 0
    try:
        main()
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
