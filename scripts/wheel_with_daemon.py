"""Builds the wheel that carries the daemon (PEP 517): `make wheel`, `pip install .`, `pip wheel .` from a clone.

    cairn/...                       the client, as setuptools makes it from Python/
    cairn/bin/cairnd, cairn         both programs, stripped; Swift's own libraries are linked into them
    cairn/bin/lib*.so.*             shared libraries that not every system has; found first, for the programs' RUNPATH is $ORIGIN
    *.dist-info/entry_points.txt    the commands `cairn` and `cairnd` (cairn.programs)
    *.dist-info/licenses/           of everything that is inside and not ours

The platform tag names the newest glibc of which a program or a library beside it uses a symbol: pip refuses an older system.
Programs are taken from CAIRN_BIN as they are where it is set, else built by `swift build`, else taken from .build/release.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("cairnd", "cairn")
OF_EVERY_SYSTEM = re.compile(r"(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+)\.so")
"""What a manylinux wheel may expect (PEP 600); all else goes into it."""
COMMANDS = "[console_scripts]\ncairn = cairn.programs:cairn\ncairnd = cairn.programs:cairnd\n"


def build_wheel(wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None) -> str:
    """PEP 517's hook: the file's name, in ``wheel_directory``."""
    with tempfile.TemporaryDirectory(prefix="cairn-wheel-") as scratch:
        client, inside = _client(Path(scratch)), Path(scratch, "inside")
        with zipfile.ZipFile(client) as archive:
            archive.extractall(inside)
        bin_folder = inside / "cairn" / "bin"
        bin_folder.mkdir()
        libraries = _programs(bin_folder)
        (information,) = inside.glob("*.dist-info")
        tag = f"py3-none-manylinux_{_glibc(bin_folder)}_{platform.machine()}"
        (information / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: cairn\nRoot-Is-Purelib: false\nTag: {tag}\n")
        (information / "entry_points.txt").write_text(COMMANDS)
        _licenses(information / "licenses", libraries)
        name = f"{information.name.removesuffix('.dist-info')}-{tag}.whl"
        _pack(inside, information, Path(wheel_directory, name))
    return name


def _client(scratch: Path) -> Path:
    """The wheel of Python/ alone, made from a copy: setuptools leaves folders where it builds."""
    from setuptools import build_meta

    copy = scratch / "Python"
    left_out = shutil.ignore_patterns("tests", "__pycache__", ".*", "build", "*.egg-info", "bin")
    shutil.copytree(ROOT / "Python", copy, ignore=left_out)
    before = os.getcwd()
    os.chdir(copy)
    try:
        return copy / build_meta.build_wheel(str(copy))
    finally:
        os.chdir(before)


def _programs(into: Path) -> list[Path]:
    """Copy programs and libraries, and say which libraries of this system these are."""
    folder = Path(os.environ.get("CAIRN_BIN") or ROOT / ".build" / "release")
    if "CAIRN_BIN" not in os.environ and shutil.which("swift"):
        for program in PROGRAMS:
            build = ["swift", "build", "-c", "release", "--static-swift-stdlib", "--product", program]
            subprocess.run(build, cwd=ROOT, check=True)
    needed: dict[str, Path] = {}
    for program in PROGRAMS:
        if not (folder / program).exists():
            raise SystemExit(
                f"no '{folder / program}': put Swift 6.3 on the PATH, or run `make release`, or name a folder with built programs "
                "by CAIRN_BIN. For the client without a daemon: pip install ./Python"
            )
        subprocess.run(["strip", "-o", str(into / program), str(folder / program)], check=True)
        if "$ORIGIN" not in _output("objdump", "-p", str(into / program)):
            raise SystemExit(f"'{folder / program}' has no RUNPATH of $ORIGIN, so it would not find the libraries beside it")
        for line in _output("ldd", str(into / program)).splitlines():
            library, _, found = line.strip().partition(" => ")
            if not found or OF_EVERY_SYSTEM.match(library):
                continue
            if not found.startswith("/"):
                raise SystemExit(f"'{folder / program}' needs {library}, which is not on this system: run scripts/setup.sh")
            needed[library] = Path(found.split(" (")[0]).resolve()
    for library, path in needed.items():
        shutil.copy(path, into / library)
        (into / library).chmod(0o755)
    return list(needed.values())


def _glibc(folder: Path) -> str:
    """As `2_35`, of all files in ``folder``."""
    symbols = "".join(_output("objdump", "-T", str(file)) for file in folder.iterdir())
    newest = max((int(major), int(minor)) for major, minor in re.findall(r"\(GLIBC_(\d+)\.(\d+)", symbols))
    return f"{newest[0]}_{newest[1]}"


def _licenses(into: Path, libraries: list[Path]) -> None:
    """Swift's runtime, the packages that are linked in, and Debian's record of each library. One that is missing is an error."""
    into.mkdir(exist_ok=True)
    swift, checkouts = shutil.which("swift"), ROOT / ".build" / "checkouts"
    texts = {
        "swift": Path(swift).resolve().parent.parent / "share" / "swift" / "LICENSE.txt" if swift else Path("LICENSE of Swift"),
        "swift-argument-parser": checkouts / "swift-argument-parser" / "LICENSE.txt",
        "Yams": checkouts / "Yams" / "LICENSE",
    }
    for library in libraries:
        # dpkg knows some by the name before /usr was merged.
        owners = [_owner(path) for path in (str(library), str(library).removeprefix("/usr"))]
        package = next((owner for owner in owners if owner), library.name)
        texts[package] = Path("/usr/share/doc", package, "copyright")
    for name, text in texts.items():
        if not text.exists():
            raise SystemExit(
                f"no license text of {name} at '{text}', and a wheel must have it: put swift on the PATH and run "
                "`swift package resolve`; for a library, install its Debian package"
            )
        shutil.copy(text, into / f"{name}.txt")


def _owner(path: str) -> str:
    """The Debian package of a file, or nothing."""
    found = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True)
    return found.stdout.split(":")[0] if found.returncode == 0 else ""


def _pack(inside: Path, information: Path, wheel: Path) -> None:
    """With the list of digests that pip checks, and the same bytes for the same files."""
    record = information / "RECORD"
    lines = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in inside.rglob("*") if path.is_file() and path != record):
            content, name = file.read_bytes(), file.relative_to(inside).as_posix()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(content)}\n")
            _add(archive, name, content, 0o755 if file.parent.name == "bin" else 0o644)
        name = record.relative_to(inside).as_posix()
        _add(archive, name, "".join([*lines, f"{name},,\n"]).encode(), 0o644)


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name)  # of 1980
    entry.external_attr = (0o100000 | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
