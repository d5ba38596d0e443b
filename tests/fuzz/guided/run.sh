#!/usr/bin/env bash
# Feeds one of the preset fuzz's targets with inputs that coverage guides: for SECONDS, from the target's own seeds, which
# are written anew each time. An input that breaks something is kept in build/fuzz/found. `control` looks whether the defects that
# PALIMPSEST_FUZZ_PLANTED puts into the targets are found: an overflow, a leak, a stuck sequence.
# Usage: tests/fuzz/guided/run.sh requests|logs|sessions|control SECONDS [SEED]
# Exit 77: not built (cmake --preset fuzz && cmake --build --preset fuzz).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
if ! [[ "${1:-} ${2:-} ${3:-1}" =~ ^(requests|logs|sessions|control)\ [1-9][0-9]*\ [1-9][0-9]*$ ]]; then
  echo "usage: tests/fuzz/guided/run.sh requests|logs|sessions|control SECONDS [SEED] (got: $*)" >&2
  exit 2
fi
what=$1 seconds=$2 seed=${3:-1} bin=build/fuzz/bin
for target in requests logs sessions; do
  [ -x "$bin/fuzz_$target" ] || { echo "$bin/fuzz_$target is not built" >&2; exit 77; }
done

declare -A longest=([requests]=4096 [logs]=4096 [sessions]=300)  # bytes of an input
TMPDIR=$(mktemp -d)
trap 'rm -rf "$TMPDIR"' EXIT
export TMPDIR OMP_NUM_THREADS=1
mkdir -p build/fuzz/found

# fuzz TARGET FOUND OPTION..: what breaks is written to FOUND<hash>. The seeds of libFuzzer and of its inputs are told.
fuzz() {
  local target=$1 found=$2
  shift 2
  mkdir -p "$TMPDIR/$target" "$TMPDIR/$target.seeds"
  env -u PALIMPSEST_FUZZ_PLANTED "$bin/fuzz_$target" --seeds "$TMPDIR/$target.seeds"
  # -entropic=0: weighing tens of thousands of features would take half of the time.
  timeout $((seconds + 200)) "$bin/fuzz_$target" -seed="$seed" -entropic=0 -len_control=0 -max_len="${longest[$target]}" \
    -timeout=60 -rss_limit_mb=2048 -print_funcs=0 -print_final_stats=1 -artifact_prefix="$found" "$@" \
    "$TMPDIR/$target" "$TMPDIR/$target.seeds" 2>&1
}

# finds TARGET WORDS: its defect, told by these words, within SECONDS, but not by the seeds alone.
finds() {
  local target=$1 words=$2 log=$TMPDIR/$1.log
  export PALIMPSEST_FUZZ_PLANTED=1
  if ! fuzz "$target" "$TMPDIR/" -runs=0 > "$log"; then
    cat "$log"
    echo "control: $target's seeds show its defect already" >&2
    return 1
  fi
  if fuzz "$target" "$TMPDIR/" -max_total_time="$seconds" > "$log" || ! grep -q -e "$words" "$log"; then
    tail -n 60 "$log"
    echo "control: the defect of $target was not found" >&2
    return 1
  fi
  printf 'control: %s: found (%s) after %s inputs\n' "$target" "$words" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
}

if [ "$what" = control ]; then
  finds requests heap-buffer-overflow
  finds logs 'detected memory leaks'
  finds sessions 'fuzz: stuck'
else
  echo "fuzz_$what -seed=$seed for $seconds s"
  fuzz "$what" build/fuzz/found/"$what"- -max_total_time="$seconds" | tail -n 400
fi
