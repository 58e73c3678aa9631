"""Draws Docs/session.svg, the README's picture of a terminal, from a real run: `make session`.

Each command of SESSION runs in bash on a terminal of its own, 84 columns wide, with a home of its own, which is shown as `~`.
Its text is drawn as it came, in the colours that `cairn` gives it. Where what is typed and what must run differ (a kill at the
right moment), both stand there.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KILLED = (
    "(exec python train.py) & trainer=$!; until [ $(cairn ls quickstart 2>/dev/null | wc -l) -gt 6 ]; do sleep 0.05; done; "
    "kill -9 $trainer; wait $trainer 2>/dev/null; echo Killed"
)
SESSION = (
    ("python train.py      # and kill -9 after some steps", KILLED),
    ("python train.py --steps 12      # once more", "python train.py --steps 12"),
    ("cairn ls quickstart", None),
    ("cairn verify quickstart", None),
    ("cairn status", None),
)
COLUMNS, CHARACTER, LINE, MARGIN, BAR = 84, 8.43, 18, 14, 24
COLOURS = {"31": "#f47067", "32": "#57ab5a", "33": "#c69026", "34": "#539bf5", "35": "#b083f0", "36": "#39c5cf", "90": "#768390"}
TEXT, DIM, BACKGROUND = "#cdd9e5", "#909dab", "#1c2128"
FONT = "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"
ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def run(command: str, environment: dict[str, str]) -> str:
    """What it prints on a terminal."""
    ours, theirs = pty.openpty()
    words = ["bash", "-c", f"stty cols {COLUMNS} rows 50; {command}"]
    folder = ROOT / "Examples" / "quickstart"
    process = subprocess.Popen(words, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    found = b""
    while True:
        try:
            read = os.read(ours, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            break
        if not read:
            break
        found += read
    process.wait(60)
    os.close(ours)
    return found.decode(errors="replace").replace("\r\n", "\n").replace(environment["HOME"], "~")


def rows(text: str) -> list[str]:
    """As on the screen: of what was written over each other in a line the last, and long lines wrapped."""
    found = []
    for line in text.rstrip("\n").split("\n"):
        writings = [writing for writing in line.split("\r") if ESCAPE.sub("", writing).strip()]
        last = writings[-1] if writings else ""
        long = not ESCAPE.search(last) and len(last) > COLUMNS
        found += [last[begin : begin + COLUMNS] for begin in range(0, len(last), COLUMNS)] if long else [last]
    return found


def spans(line: str) -> str:
    """SVG of a line, with its colours."""
    drawn, style, end = "", "", 0
    for found in [*ESCAPE.finditer(line), None]:
        part = line[end : found.start() if found else len(line)]
        drawn += f"<tspan{style}>{escape(part)}</tspan>" if part and style else escape(part)
        if found:
            end = found.end()
        if found and found[2] == "m":
            codes = found[1].split(";")
            fill = next((COLOURS[code] for code in codes if code in COLOURS), DIM if "2" in codes else None)
            style = (f' fill="{fill}"' if fill else "") + (' font-weight="bold"' if "1" in codes else "")
    return drawn


def draw(lines: list[str]) -> str:
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), len(lines) * LINE + 2 * MARGIN + BAR
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        *(f'<circle cx="{20 + 18 * at}" cy="18" r="5" fill="{COLOURS[code]}"/>' for at, code in enumerate(("31", "33", "32"))),
        f'<g font-family="{FONT}" font-size="14" fill="{TEXT}" xml:space="preserve">',
    ]
    for number, line in enumerate(lines):
        if line:
            drawn.append(f'<text x="{MARGIN}" y="{MARGIN + BAR + (number + 1) * LINE - 5}">{line}</text>')
    return "\n".join([*drawn, "</g>", "</svg>", ""])


def main() -> None:
    programs = os.environ.get("CAIRN_BIN", str(ROOT / ".build" / "release"))
    with tempfile.TemporaryDirectory(prefix="cairn-session-") as home:
        path = f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = {"HOME": home, "PATH": path, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        environment |= {"PYTHONPATH": str(ROOT / "Python"), "CAIRND_BINARY": f"{programs}/cairnd"}
        lines: list[str] = []
        for shown, command in SESSION:
            lines.append(f'<tspan fill="{COLOURS["32"]}">$</tspan> <tspan font-weight="bold">{escape(shown)}</tspan>')
            lines += [*map(spans, rows(run(command or shown, environment))), ""]
        status = subprocess.run(["cairn", "status", "--json"], env=environment, check=True, capture_output=True, text=True)
        (ROOT / "Docs" / "session.svg").write_text(draw(lines[:-1]))
        os.kill(json.loads(status.stdout)["daemon"]["pid"], signal.SIGTERM)
        socket = Path(home, ".local/state/cairn/cairn.sock")
        subprocess.run(["timeout", "20", "sh", "-c", f"while [ -e {socket} ]; do sleep 0.1; done"], check=True)


if __name__ == "__main__":
    main()
