"""`python -m cairn.convert export RUN STEP --to FORM PATH` and `… import RUN STEP --from FORM PATH`."""

from __future__ import annotations

import argparse
import sys

from .. import errors, limits
from . import EXPORTS, IMPORTS, Report, export_step, import_step
from .source import Told

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _bytes(text: str) -> int:
    for unit, size in reversed(_UNITS.items()):
        number = text.removesuffix(unit)
        if text.endswith(unit) and number.isdecimal() and int(number) > 0:
            return int(number) * size
    raise argparse.ArgumentTypeError(f"'{text}' is not a size, as 4GiB or 500MiB")


def _step(text: str) -> int | None:
    if text != "newest" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no step: a number, or newest")
    return None if text == "newest" else int(text)


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cairn.convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a committed step for another tool")
    export.add_argument("run")
    export.add_argument("step", type=_step, help="a number, or newest")
    export.add_argument("--to", required=True, choices=list(EXPORTS))
    export.add_argument("--prefix", default="", help="safetensors, hf, universal: only tensors named so, without it")
    export.add_argument("--rank", type=int, help="whose own tensors and values to take, where several ranks saved")
    export.add_argument("--shard", type=_bytes, default=limits.EXPORT_SHARD_BYTES, help="hf: the most that one file holds (4GiB)")
    export.add_argument("--with", dest="beside", action="append", default=[], metavar="FILE", help="hf: copied too, as config.json")
    bring = commands.add_parser("import", help="save files of another tool as the first step of a new run")
    bring.add_argument("run")
    bring.add_argument("step", type=int)
    bring.add_argument("--from", dest="form", required=True, choices=list(IMPORTS))
    bring.add_argument("--prefix", default="", help="safetensors, hf, universal: where tensors go in the state, as model.")
    for command in (export, bring):
        command.add_argument("path")
        command.add_argument("--allow-pickle", action="store_true", help="run what pickles name: only for files that one trusts")
        command.add_argument("--socket", help="the daemon's; default: CAIRN_SOCKET, or where it usually listens")
    return parser


class Progress:
    """A line on a terminal's stderr that is written over until ``end``."""

    def __init__(self) -> None:
        self._is_shown = False

    def __call__(self, done: int, of: int) -> None:
        if sys.stderr.isatty():
            self._is_shown = True
            share = 100 if of == 0 else done * 100 // of
            print(f"\r{_gib(done)} of {_gib(of)} ({share} %)", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            print(file=sys.stderr)


def _run(wish: argparse.Namespace, told: Told) -> Report:
    if wish.command == "import":
        return import_step(
            wish.path, wish.form, wish.run, wish.step, prefix=wish.prefix, allow_pickle=wish.allow_pickle, socket=wish.socket
        )
    return export_step(
        wish.run, wish.step, wish.to, wish.path, prefix=wish.prefix, rank=wish.rank, shard_bytes=wish.shard,
        beside=wish.beside, allow_pickle=wish.allow_pickle, socket=wish.socket, told=told,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0; 1: it could not be converted, and the message says why; 2: wrong usage."""
    wish = _parser().parse_args(arguments)
    progress = Progress()
    try:
        report = _run(wish, progress)
    except (errors.CairnError, TimeoutError, ValueError) as failure:
        progress.end()
        print(f"cairn.convert: {failure}", file=sys.stderr)
        return 1
    progress.end()
    print(f"step {report.step}: {report.tensors} tensors, {_gib(report.bytes)}, in '{wish.path}'" if wish.command == "export" else
          f"run '{wish.run}', step {report.step}: {report.tensors} tensors, {_gib(report.bytes)}")  # fmt: skip
    if report.left_out:
        print(f"left out: {len(report.left_out)} tensors, as '{report.left_out[0]}'", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
