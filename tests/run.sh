#!/usr/bin/env bash
# The gate: installs what is missing, builds, runs all tests. The last line is what ctest counted.
# --long: then also the long tests (palimpsest_long_test in cmake/), whatever the gate said, two at a time, because
# they wait more than they compute; the outcome of both is written to docs/results/long.md.
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
deploy/setup.sh --prometheus --slurm --python-clients --tensorboard --browser --python-envs
build_release

# run_tests PRESET JOBS OPTION..: the tests of that preset; build/release/PRESET.xml and .log keep what they said.
run_tests() {
  local preset=$1 jobs=$2 log=build/release/$1.log outcome=0
  shift 2
  ctest --preset "$preset" -j "$jobs" --no-tests=error --output-junit "$PWD/build/release/$preset.xml" "$@" 2>&1 | tee "$log" ||
    outcome=$?
  grep -E '^[0-9]+% tests passed' "$log" || true
  return "$outcome"
}

status=0
run_tests release "$(nproc)" || status=$?
if $long; then
  run_tests long 2 --test-output-size-passed 1048576 || status=$?
  python3 tests/integration/gate/report.py build/release/release.xml build/release/long.xml > build/release/long.md
  mv build/release/long.md docs/results/long.md
  printf 'docs/results/long.md is written\n'
fi
exit "$status"
