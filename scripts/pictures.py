"""Docs/status.svg, watch.svg, timeline.svg: what `cairn` shows of a real run of eight ranks, one of which saves far more.

    .venv/bin/python scripts/pictures.py [FOLDER]          binaries: CAIRN_BIN, else .build/release
"""

from __future__ import annotations

import html
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(os.environ.get("CAIRN_BIN", ROOT / ".build" / "release"))
RANKS, STEPS, SLOW_RANK = 8, 14, 5
COLOURS = {"1": "font-weight='bold'", "2": "fill='#777'", "31": "fill='#c1121f'", "32": "fill='#2a7f3f'", "33": "fill='#b36b00'"}

RANK = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / "Python")!r})
import numpy, cairn
rank = int(sys.argv[1])
state = {{f"layer.{{i}}": numpy.random.default_rng(rank).random(1 << 20) for i in range(3 if rank != {SLOW_RANK} else 36)}}
world = dict(world_size={RANKS}, local_world_size={RANKS}, attempt=sys.argv[2], socket=sys.argv[3])
ckpt = cairn.Checkpointer("llama-7b", rank=rank, local_rank=rank, **world)
for step in range(100, 100 * {STEPS} + 1, 100):
    ckpt.save(step, state, lazy=True)
    time.sleep(0.05)                      # forward and backward
    with ckpt.lock():                     # the optimizer
        pass
    time.sleep(0.5)
ckpt.wait_until_finished()
ckpt.close()
"""


def terminal(text: str, command: str) -> str:
    """What a terminal shows, as SVG: its colours, a fixed grid."""
    lines = [f"$ {command}", *text.rstrip("\n").split("\n")]
    width = max(len(re.sub("\x1b\\[[0-9;]*[A-Za-z]", "", line)) for line in lines)
    rows = []
    for number, line in enumerate(lines):
        spans, style = [], ""
        for piece in re.split("(\x1b\\[[0-9;]*[A-Za-z])", line):
            if code := re.fullmatch("\x1b\\[([0-9;]*)m", piece):
                style = COLOURS.get(code[1], "")
            elif piece and not piece.startswith("\x1b"):
                spans.append(f"<tspan {style}>{html.escape(piece)}</tspan>" if style else html.escape(piece))
        rows.append(f"<text x='14' y='{24 + 17 * number}' xml:space='preserve'>{''.join(spans)}</text>")
    size = f"{28 + 7.85 * width:.0f} {32 + 17 * len(lines)}"
    font = "font-family='ui-monospace, Menlo, Consolas, monospace' font-size='13'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size}' {font} role='img'>"
    back = f"<title>{html.escape(command)}</title>\n<rect width='100%' height='100%' rx='6' fill='#f8f8f5' stroke='#ccc'/>"
    return "\n".join([head, back, *rows, "</svg>", ""])


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.replace("\r", "")


def main() -> None:
    docs = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Docs"
    with tempfile.TemporaryDirectory(prefix="cairn-") as name:
        folder = Path(name)
        for part in ("local", "global", "state"):
            (folder / part).mkdir()
        (folder / "cairnd.yaml").write_text(
            f"socket: {folder}/s\npool: {{size: 1GiB}}\nstate: {folder}/state\n"
            f"tiers: {{local: {{paths: [{folder}/local], reserve: 0B}}, global: {{path: {folder}/global}}}}\n"
        )
        command = [str(BIN / "cairnd"), "--config", f"{folder}/cairnd.yaml"]
        daemon = subprocess.Popen(command, env=os.environ | {"CAIRN_NODE": "node-17"})
        try:

            def cairn(*words: str) -> str:
                return output(str(BIN / "cairn"), *words, "--socket", f"{folder}/s")

            while not cairn("status"):
                time.sleep(0.1)
            attempt = secrets.token_hex(8)
            ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), attempt, f"{folder}/s"]) for rank in range(RANKS)]
            shown = ""
            while any(rank.poll() is None for rank in ranks):
                # A frame in which something is under way.
                script = f"stty cols 80 rows 40; {BIN}/cairn watch --once --socket {folder}/s"
                frame = output("script", "-qec", script, "/dev/null")
                if frame.count("%") > shown.count("%"):
                    shown = frame
                time.sleep(0.2)
            status = output("script", "-qec", f"{BIN}/cairn status --socket {folder}/s", "/dev/null")
            for file, text in (("status", status), ("watch", shown)):
                (docs / f"{file}.svg").write_text(terminal(text.replace(str(folder), "/cairn"), f"cairn {file}"))
            print(cairn("timeline", "llama-7b"))
            cairn("timeline", "llama-7b", "-o", str(docs / "timeline.svg"))
        finally:
            daemon.terminate()
            daemon.wait(30)


if __name__ == "__main__":
    main()
