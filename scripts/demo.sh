#!/usr/bin/env bash
# Cairn's main job on real input, told in plain words: a daemon with two tiers, a real model in training that saves every
# step, a SIGKILL in mid-run, a restore that must be bit-exact, and the ops commands. Ends by itself and leaves nothing.
#   CAIRN_BIN: folder of cairnd and cairn (default .build/release); CAIRN_DEMO_KEEP=1: keep the folder, to look around.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${CAIRN_BIN:-$PWD/.build/release}
python=$PWD/.venv/bin/python
steps=20
# /var/tmp is on a disk where /tmp is memory on some systems.
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-demo.XXXXXX")
export CAIRN_SOCKET="$folder/cairn.sock"
daemon='' trainer=''

part() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
show() { printf '$ cairn %s\n' "$*"; timeout 120 "$bin/cairn" "$@"; }

# By pid, and only what this script started.
cleanup() {
    status=$?
    trap - EXIT INT TERM
    [ -z "$trainer" ] || kill -KILL "$trainer" 2>/dev/null || true
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then
        for _ in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$daemon" 2>/dev/null || true
    fi
    if (( status != 0 )); then
        printf '\ndemo: failed (%d). The end of the daemon'\''s log, of %s:\n' "$status" "$folder" >&2
        tail -n 30 "$folder/cairnd.log" >&2 2>/dev/null || true
        for log in "$folder"/train-*.log; do [ ! -e "$log" ] || { echo "-- $log" >&2; tail -n 15 "$log" >&2; }; done
    fi
    [ -n "${CAIRN_DEMO_KEEP:-}" ] || rm -rf "$folder"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# until_true SECONDS WHAT COMMAND…: waits until the command holds; the daemon's or trainer's death ends the wait.
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if (( SECONDS >= deadline )); then echo "demo: waited too long for $what" >&2; exit 1; fi
        kill -0 "$daemon" 2>/dev/null || { echo "demo: cairnd ended while waiting for $what" >&2; exit 1; }
        sleep 0.02
    done
}
answers() { timeout 5 "$bin/cairn" status >/dev/null 2>&1; }
count() { grep -c -- "$1" "$2" 2>/dev/null || true; }
at_least() { (( $(count "$1" "$2") >= $3 )) || ! kill -0 "$trainer" 2>/dev/null; }

train() { "$python" Examples/minilm/train.py --run minilm --steps "$steps" --journal "$folder/journal" "$@"; }

part "1. A daemon with two tiers"
mkdir "$folder/nvme0" "$folder/nvme1" "$folder/pfs"
sed "s|/tmp/cairn-demo|$folder|g" Config/demo.yaml > "$folder/cairnd.yaml"
say "local tier:  $folder/nvme0 and nvme1 (two folders stand for two drives)"
say "global tier: $folder/pfs (stands for the parallel filesystem)"
"$bin/cairnd" --config "$folder/cairnd.yaml" >"$folder/cairnd.log" 2>&1 &
daemon=$!
until_true 30 "the daemon" answers
show status

part "2. Training all-MiniLM-L6-v2 with AdamW, every step saved while training goes on"
train >"$folder/train-1.log" 2>&1 &
trainer=$!
until_true 600 "the fourth committed step" at_least ': committed ' "$folder/train-1.log" 4
saved=$(count 'save() took' "$folder/train-1.log")
until_true 120 "the next save" at_least 'save() took' "$folder/train-1.log" $((saved + 1))

part "3. SIGKILL for the trainer, just after save() returned: its last save is in mid-flight"
kill -KILL "$trainer" 2>/dev/null || { echo "demo: the trainer had ended before it could be killed" >&2; exit 1; }
wait "$trainer" 2>/dev/null || true
trainer=''
sed 's/^/   /' "$folder/train-1.log"
say "(killed)"
show ls minilm

part "4. The trainer again: it restores the newest whole step, and must find every bit as it was"
train --must-restore >"$folder/train-2.log" 2>&1 &
trainer=$!
gone() { ! kill -0 "$trainer" 2>/dev/null; }
until_true 900 "the end of training" gone
result=0; wait "$trainer" || result=$?
trainer=''
sed 's/^/   /' "$folder/train-2.log"
if (( result != 0 )); then echo "demo: the second run ended with $result" >&2; exit 1; fi
(( $(count 'restored in .*: bit-exact' "$folder/train-2.log") == 1 )) || { echo "demo: nothing was restored" >&2; exit 1; }
grep -q "finished at step $steps" "$folder/train-2.log" || { echo "demo: step $steps was not reached" >&2; exit 1; }
last=$(sed -nE 's/^step ([0-9]+): loss.*/\1/p' "$folder/train-1.log" | tail -n 1)
back=$(sed -nE 's/^step ([0-9]+) restored in.*/\1/p' "$folder/train-2.log")
again=$(count 'trained again: bit-exact' "$folder/train-2.log")
if [ "$last" = "$back" ]; then
    say "step $last is the one whose save was in mid-flight: it was staged, so the daemon finished it without its trainer"
fi
(( again == 0 )) || say "steps after it that had to be trained again: $again, each bit for bit as before the kill"

part "5. What an operator sees"
show status
show ls
show ls minilm
show verify minilm

part "6. The step's files are ordinary safetensors files"
newest=$("$bin/cairn" path minilm)
say "$newest"
"$python" - "$newest" <<'PYTHON'
import pathlib, sys
from safetensors import safe_open
for path in sorted(pathlib.Path(sys.argv[1]).glob("rank-*.safetensors")):
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        print(f"   {path.name}: {len(names)} tensors, {path.stat().st_size / 2**20:.1f} MiB, such as {names[len(names) // 2]}")
PYTHON

part "7. SIGTERM for the daemon"
began=$SECONDS
kill -TERM "$daemon"
for _ in $(seq 300); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
if kill -0 "$daemon" 2>/dev/null; then echo "demo: cairnd did not end within 30 s" >&2; exit 1; fi
result=0; wait "$daemon" || result=$?
daemon=''
(( result == 0 )) || { echo "demo: cairnd ended with $result" >&2; exit 1; }
say "ended cleanly within $((SECONDS - began + 1)) s"
printf '\nDone: killed in mid-run, restored bit-exactly, verified.\n'
