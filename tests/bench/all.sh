#!/usr/bin/env bash
# The benches that need no peer, no network and no GPU, one after another, on a machine that does nothing else: some ten
# minutes on two cores. What they print goes into a page with commit, machine and load. Part of `tests/run.sh --long` (bench).
#   tests/bench/all.sh [PAGE]   (docs/results/bench.md)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ $# -gt 1 ]; then
  printf 'usage: tests/bench/all.sh [PAGE]\n' >&2
  exit 2
fi
page=${1:-docs/results/bench.md}

benches=("replay_bench all 5" "memory_bench 3 4 8" "cut_bench 5" "shadow_bench 5" "shards_bench 5 2 24" "rows_bench 9" "kernels_bench 9" "event_bench 5 2"
  "decode_bench 128 154 3" "decode_bench 128 154 3 8" "gap_bench 8 4 300" "gap_bench 8 4 300")

# shellcheck source=../../deploy/build.sh
source deploy/build.sh
mapfile -t targets < <(printf '%s\n' "${benches[@]}" | cut -d ' ' -f 1 | sort -u)
build_release "${targets[@]}"

written=$(mktemp)
trap 'rm -f "$written"' EXIT
# shellcheck disable=SC2016  # code in Markdown
{
  printf '# What the benches print\n\nWritten by `tests/bench/all.sh`. What a row is: [tests/bench](../../tests/bench/README.md).\n\n'
  printf '%s Load before: %s.\n' "$(python3 tests/integration/gate/report.py --where)" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
} > "$written"
for bench in "${benches[@]}"; do
  printf 'bench: %s\n' "$bench" >&2
  read -ra command <<< "$bench"
  # shellcheck disable=SC2016  # a fence of Markdown
  {
    printf '\n`build/release/bin/%s`\n\n```\n' "$bench"
    "build/release/bin/${command[0]}" "${command[@]:1}"
    printf '```\n'
  } >> "$written"
done
printf '\nLoad after: %s.\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)" >> "$written"
cp "$written" "$page"
printf 'bench: %s is written\n' "$page" >&2
