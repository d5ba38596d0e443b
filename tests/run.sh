#!/usr/bin/env bash
# The gate: installs what is missing, builds, runs all tests. The last line is what ctest counted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -gt 0 ]; then
  printf 'usage: tests/run.sh (it takes no options; got: %s)\n' "$*" >&2
  exit 2
fi

# shellcheck source=../deploy/build.sh
source deploy/build.sh
deploy/setup.sh --prometheus --slurm --python-clients --browser --python-envs
build_release

status=0
log=build/release/ctest.log
ctest --preset release -j "$(nproc)" --no-tests=error 2>&1 | tee "$log" || status=$?
grep -E '^[0-9]+% tests passed' "$log" || true
exit "$status"
