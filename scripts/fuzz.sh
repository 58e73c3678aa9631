#!/bin/bash
# libFuzzer against each parser in turn: scripts/fuzz.sh FUZZER SECONDS [PARSER…]. What it learned stays in .build/fuzz/corpus for the next
# run; an input that traps, takes long or takes much memory is left in .build/fuzz/found, and the exit code is 1.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzzer=$1 seconds=$2
shift 2
[ $# -gt 0 ] || set -- $(CAIRN_FUZZ_PARSER='' "$fuzzer" 2>&1 | sed -n 's/^CAIRN_FUZZ_PARSER is one of: //p')
[ $# -gt 0 ] || { echo "fuzz: $fuzzer names no parser" >&2; exit 2; }
work=${FUZZ_WORK:-.build/fuzz}
mkdir -p "$work/found"
failed=()
for parser in "$@"; do
  mkdir -p "$work/corpus/$parser" "$work/seeds/$parser"
  log=$work/$parser.log
  # Swift's own report of a trap takes a second and much memory; libFuzzer's says enough.
  if CAIRN_FUZZ_PARSER=$parser CAIRN_FUZZ_SEEDS=$work/seeds/$parser SWIFT_BACKTRACE=enable=no "$fuzzer" \
      -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1500 -malloc_limit_mb=600 -max_len=16384 -dict=Tests/Fuzz/json.dict \
      -artifact_prefix="$work/found/$parser-" -print_final_stats=1 "$work/corpus/$parser" "$work/seeds/$parser" > "$log" 2>&1; then
    result=ok
  else
    result="FAILED, see $log and $work/found"
    failed+=("$parser")
  fi
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  printf '%-14s %12s inputs  %s\n' "$parser" "${executed:-?}" "$result"
done
[ ${#failed[@]} = 0 ]
