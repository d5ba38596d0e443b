#!/usr/bin/env bash
# The gate: installs what is missing, builds, runs all tests. The last lines are what ctest counted, and which tests were skipped: those
# that found no Chromium, no Prometheus, no namespaces or no nvcc have proven nothing. Under --long they fail it, unless PALIMPSEST_ALLOW_SKIPS=1.
# --long: then also the long tests (palimpsest_long_test in cmake/), whatever the gate said, three at a time, because
# they wait more than they compute, the tests of rooms under the presets asan and tsan, and the benches, alone (docs/results/bench.md) and against peers
# (docs/results/peers_bench.md), which nothing fails. With names of parts behind it (gate, long, asan, tsan, bench, peers) those alone. The last outcome of each part that this folder has seen, with its commit, is written to
# docs/results/long.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

refuse() {
  printf 'usage: tests/run.sh [--long [gate|long|asan|tsan|bench|peers ..]] (got: %s)\n' "$*" >&2
  exit 2
}

long=false
parts=(gate)
if [ $# -gt 0 ]; then
  [ "$1" = --long ] || refuse "$@"
  long=true
  if [ $# -gt 1 ]; then parts=("${@:2}"); else parts=(gate long asan tsan bench peers); fi
fi
for part in "${parts[@]}"; do
  case $part in
    gate | long | asan | tsan | bench | peers) ;;
    *) refuse "$@" ;;
  esac
done

# shellcheck source=../deploy/build.sh
source deploy/build.sh
deploy/setup.sh --prometheus --slurm --python-clients --tensorboard --browser --fuzzers --python-envs
build_release

said=build/release/parts
mkdir -p "$said"

# run_tests PART PRESET JOBS OPTION..: the tests of that preset; $said keeps what they said, and where.
run_tests() {
  local part=$1 preset=$2 jobs=$3 outcome=0
  shift 3
  ctest --preset "$preset" -j "$jobs" --no-tests=error --output-junit "$PWD/$said/$part.xml" "$@" 2>&1 | tee "$said/$part.log" ||
    outcome=$?
  grep -E '^[0-9]+% tests passed' "$said/$part.log" || true
  return "$outcome"
}

# run_sanitized PRESET: builds what its tests need and runs them.
run_sanitized() {
  cmake --preset "$1" && cmake --build --preset "$1" -j "$(build_jobs)" && run_tests "$1" "$1" "$(nproc)"
}

run_part() {
  case $1 in
    bench) tests/bench/all.sh ;;
    peers) tests/bench/peers/all.sh ;;
    *) run_tests_of "$1" ;;
  esac
}

run_tests_of() {
  rm -f "$said/$1.xml"
  python3 tests/integration/gate/report.py --where > "$said/$1.where"
  case $1 in
    gate) cmake --preset fuzz && cmake --build --preset fuzz -j "$(build_jobs)" && run_tests gate release "$(nproc)" ;;
    long) run_tests long long 3 --test-output-size-passed 1048576 ;;
    *) run_sanitized "$1" ;;
  esac
}

status=0
for part in "${parts[@]}"; do
  run_part "$part" || status=$?
done
if $long; then
  python3 tests/integration/gate/report.py "$said" > "$said/long.md"
  cp "$said/long.md" docs/results/long.md
  printf 'docs/results/long.md is written\n'
fi
skips=0
mapfile -t tested < <(printf '%s\n' "${parts[@]}" | grep -vE '^(bench|peers)$')
if [ "${#tested[@]}" -gt 0 ]; then python3 tests/integration/gate/report.py --skipped "$said" "${tested[@]}" || skips=$?; fi
if $long && [ "$status" -eq 0 ]; then status=$skips; fi
exit "$status"
