"""Makes the man pages: `man_pages.py FOLDER_OF_PROGRAMS OUT`. `make install` calls it.

Docs/man/*.in are mdoc(7), written by hand, with lines that stand for what programs and shipped configuration say of themselves:
    @COMMANDS@  @COMMON@        from `cairn --experimental-dump-help`, swift-argument-parser's JSON
    @OVERVIEW@  @SECTIONS@      its text before the list of commands: to the first title, and from there
    @OPTIONS@                   from `cairnd --help`
    @KEYS@                      from Config/cairnd.yaml: each key, its value, its comment
    @VERSION@                   within a line
So a new command, option or key is in its page without a hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINKS = {"cairnd.socket.8": "cairnd.service.8", "cairnd@.service.8": "cairnd.service.8"}
"""Pages that are another one."""


def text(words: str) -> str:
    """A paragraph: nothing in it is markup, and each sentence is on a line of its own, as mdoc wants it."""
    escaped = words.replace("\\", "\\e").strip()
    sentences = re.sub(r"(?<=[.!?]) (?=[A-Z(])", "\n", escaped).split("\n")
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, 78, break_long_words=False, break_on_hyphens=False)]
    return "\n".join(re.sub(r"^(?=[.'])", r"\\&", line) for line in lines)


def word(argument: str) -> str:
    """An argument of a macro: quoted where it has spaces, and never taken for a macro itself."""
    escaped = argument.replace("\\", "\\e").replace('"', '\\(dq')
    escaped = re.sub(r"^(?=[A-Z%][a-z1-9]$)", r"\\&", escaped)
    return f'"{escaped}"' if " " in escaped else escaped


def prose(words: str | None, section: bool) -> Iterable[str]:
    """What a help text says below its first line. A title in capitals is a section, or a bold line of one; lines below it stay."""
    for number, block in enumerate((words or "").strip("\n").split("\n\n")):
        lines = block.split("\n")
        titled = len(lines) > 1 and lines[0].isupper()
        if titled and section:
            yield f".Sh {lines[0]}"
        elif titled:
            yield f".Pp\n.Sy {lines[0].capitalize()}"
        elif number or not section:
            yield ".Pp"
        if titled or lines[0].startswith("  "):
            literal = [line.removeprefix("  ").replace("\\", "\\e") for line in lines[titled:]]
            yield from [".Bd -literal -offset indent", *(re.sub(r"^(?=[.'])", r"\\&", line) for line in literal), ".Ed"]
        elif block:
            yield text(" ".join(lines))


def names(argument: dict[str, Any]) -> str:
    """`Fl h , Fl -help Ar path`, as an entry of a list."""
    if argument["kind"] == "positional":
        return f"Ar {word(argument['valueName'])}"
    flags = ["Fl " + ("-" if name["kind"] == "long" else "") + name["name"] for name in argument["names"]]
    value = f" Ar {word(argument['valueName'])}" if argument["kind"] == "option" else ""
    return " , ".join(flags) + value


def entries(arguments: list[dict[str, Any]]) -> Iterable[str]:
    if not arguments:
        return
    yield ".Bl -tag -width Ds"
    for argument in arguments:
        yield f".It {names(argument)}"
        said = argument.get("abstract", "")
        if "allValues" in argument and not all(value in said for value in argument["allValues"]):
            said += f" One of {', '.join(argument['allValues'])}."
        if argument.get("defaultValue"):
            said += f" Default: {argument['defaultValue']}."
        yield text(said or "No more is said of it.")
    yield ".El"


def usage(argument: dict[str, Any]) -> str:
    shown = names({**argument, "names": [argument["preferredName"]]} if "preferredName" in argument else argument)
    shown += " ..." if argument["isRepeating"] else ""
    return f".Op {shown}" if argument["isOptional"] else f".{shown}"


def shown(of: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in of if one["shouldDisplay"]]


def cairn(program: Path) -> dict[str, str]:
    dump = json.loads(subprocess.run([program, "--experimental-dump-help"], check=True, capture_output=True, text=True).stdout)
    tool = dump["command"]
    commands = [command for command in shown(tool["subcommands"]) if command["commandName"] != "help"]
    common = [one for one in shown(commands[0]["arguments"]) if all(one in command["arguments"] for command in commands)]
    overview, title, sections = "\n".join(prose(tool.get("discussion"), section=True)).partition(".Sh")
    lines: list[str] = []

    def describe(command: dict[str, Any], name: str) -> None:
        own = [argument for argument in shown(command["arguments"]) if argument not in common]
        lines.extend([f".Ss cairn {name}", f".Nm cairn {name}"])
        lines.extend(usage(argument) for argument in own)
        lines.extend([".Pp", text(command.get("abstract", "")), *prose(command.get("discussion"), section=False), *entries(own)])
        for inner in shown(command.get("subcommands", [])):
            describe(inner, f"{name} {inner['commandName']}")

    for command in commands:
        describe(command, command["commandName"])
    return {
        "@COMMANDS@": "\n".join(lines), "@COMMON@": "\n".join(entries(common)),
        "@OVERVIEW@": overview.rstrip(), "@SECTIONS@": title + sections,
    }  # fmt: skip


def cairnd(program: Path) -> dict[str, str]:
    said = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    lines = [".Bl -tag -width Ds"]
    for option, value, meaning in re.findall(r"^  (--[\w-]+) ?([A-Z]*)  +(.*(?:\n {8,}.*)*)", said, re.M):
        lines.append(f".It Fl {option.removeprefix('-')}" + (f" Ar {value.lower()}" if value else ""))
        lines.append(text(meaning[:1].upper() + " ".join(meaning[1:].split())) + ".")
    return {"@OPTIONS@": "\n".join([*lines, ".El"])}


def keys(configuration: str) -> Iterable[tuple[str, str, str]]:
    """Each key of the shipped file as a path, with its value and what its comments say: those above it, and that behind it. One
    that is commented out, for it has no value by default, counts too, and so does each of `{metric: loss}`."""
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in configuration.splitlines():
        line = re.sub(r"^( *)# ?( *[a-z]\w*:(?: |$))", r"\1\2", line)
        if comment := re.fullmatch(r"\s*#\s?(.*)", line):
            above.append(comment[1])
            continue
        if found := re.fullmatch(r"( *)([A-Za-z]\w*):\s*(.*?)(?:\s+#\s*(.*))?", line):
            indentation, key, value, behind = len(found[1]), found[2], found[3], found[4]
            path = [*(part for part in path if part[0] < indentation), (indentation, key)]
            said = " ".join(above + ([behind] if behind else []))
            name = ".".join(part[1] for part in path)
            yield name, value, said
            if value.startswith("{"):
                yield from ((f"{name}.{inner}", example, "") for inner, example in re.findall(r"(\w+): (\w+)", value))
        above = []


def configuration() -> dict[str, str]:
    lines: list[str] = []
    listing = False
    of_key: dict[str, str] = {}
    for path, value, said in keys((ROOT / "Config" / "cairnd.yaml").read_text()):
        said = text(said if said.endswith(".") or not said else said + ".")
        section, key = not value, path.rpartition(".")[2]
        if "." not in path:
            lines += [".El"] if listing else []
            lines += [f".Ss {path}"]
            listing = False
        elif section and not said:
            continue
        if section and "." not in path:
            lines += [said] if said else []
            continue
        lines += [] if listing else [".Bl -tag -width Ds"]
        listing = True
        # What is said of a key of one tier holds for that of the other.
        lines += [f".It Cm {path}" + (f" : {word(value)}" if value else ""), said or of_key.get(key, "As said above.")]
        of_key[key] = said or of_key.get(key, "As said above.")
    return {"@KEYS@": "\n".join([*lines, ".El"] if listing else lines)}


def main() -> None:
    programs, out = Path(sys.argv[1]), Path(sys.argv[2])
    version = subprocess.run([programs / "cairnd", "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    parts = cairn(programs / "cairn") | cairnd(programs / "cairnd") | configuration()
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "Docs" / "man").glob("*.in")):
        page = source.read_text().replace("@VERSION@", version)
        for name, part in parts.items():
            page = page.replace(f"{name}\n", f"{part}\n")
        (out / source.name.removesuffix(".in")).write_text(page)
    for name, target in LINKS.items():
        (out / name).write_text(f".so man8/{target}\n")


if __name__ == "__main__":
    main()
