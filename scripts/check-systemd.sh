#!/usr/bin/env bash
# Installs into a folder of its own and lets systemd read what was installed: units, account and folders.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v systemd-analyze >/dev/null 2>&1; then
    echo "systemd units: not checked, systemd-analyze is not installed here"
    exit 0
fi
root=$(mktemp -d "${TMPDIR:-/tmp}/cairn-systemd.XXXXXX")
trap 'rm -rf "$root"' EXIT
make --no-print-directory --silent install DESTDIR="$root" PREFIX=/usr SYSCONFDIR=/etc

"$root/usr/bin/cairnd" --check --config "$root/etc/cairn/cairnd.yaml" >/dev/null

# verify looks for programs where the unit says; these units say it of the folder.
units="$root/usr/lib/systemd/system"
sed -i "s|=/usr/bin/cairnd|=$root/usr/bin/cairnd|" "$units"/*.service
cp "$units/cairnd@.service" "$units/cairnd@daemon.service"
report=$(cd "$units" && SYSTEMD_UNIT_PATH="$units:" systemd-analyze verify --man=no --recursive-errors=no \
    ./cairnd.service ./cairnd.socket ./cairnd@daemon.service 2>&1) || { printf '%s\n' "$report" >&2; exit 1; }
if [ -n "$report" ]; then
    printf '%s\n' "$report" >&2
    echo "systemd units: verify found faults" >&2
    exit 1
fi

# Both only say what they would do; tmpfiles learned that later than Debian 12.
quietly() { local said; said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2; exit 1; }; }
if command -v systemd-sysusers >/dev/null 2>&1; then quietly systemd-sysusers --root="$root" --dry-run cairn.conf; fi
if systemd-tmpfiles --help 2>/dev/null | grep -q -- --dry-run; then
    quietly systemd-tmpfiles --root="$root" --dry-run --create cairn.conf
fi
echo "systemd units: cairnd.service, cairnd.socket, cairnd@.service verified"
