#!/usr/bin/env bash
# The gate: installs what is missing, builds, runs all tests. The last line is what ctest counted.
# --long: then also the long tests (palimpsest_long_test in cmake/), whatever the gate said, two at a time, because
# they wait more than they compute, and the tests of rooms under the presets asan and tsan; the outcome of all is written to
# docs/results/long.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

long=false
case "$*" in
  "") ;;
  --long) long=true ;;
  *)
    printf 'usage: tests/run.sh [--long] (got: %s)\n' "$*" >&2
    exit 2
    ;;
esac

# shellcheck source=../deploy/build.sh
source deploy/build.sh
deploy/setup.sh --prometheus --slurm --python-clients --tensorboard --browser --fuzzers --python-envs
build_release
cmake --preset fuzz
cmake --build --preset fuzz -j "$(build_jobs)"

# run_tests PRESET JOBS OPTION..: the tests of that preset; build/release/PRESET.xml and .log keep what they said.
run_tests() {
  local preset=$1 jobs=$2 log=build/release/$1.log outcome=0
  shift 2
  ctest --preset "$preset" -j "$jobs" --no-tests=error --output-junit "$PWD/build/release/$preset.xml" "$@" 2>&1 | tee "$log" ||
    outcome=$?
  grep -E '^[0-9]+% tests passed' "$log" || true
  return "$outcome"
}

# run_sanitized PRESET: builds what its tests need and runs them.
run_sanitized() {
  cmake --preset "$1" && cmake --build --preset "$1" -j "$(build_jobs)" && run_tests "$1" "$(nproc)"
}

status=0
run_tests release "$(nproc)" || status=$?
if $long; then
  run_tests long 2 --test-output-size-passed 1048576 || status=$?
  rm -f build/release/asan.xml build/release/tsan.xml
  run_sanitized asan || status=$?
  run_sanitized tsan || status=$?
  python3 tests/integration/gate/report.py build/release/{release,long,asan,tsan}.xml > build/release/long.md
  mv build/release/long.md docs/results/long.md
  printf 'docs/results/long.md is written\n'
fi
exit "$status"
