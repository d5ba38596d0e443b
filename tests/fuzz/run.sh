#!/usr/bin/env bash
# Breaks files and messages for SECONDS a target, with seeds that were not tried before (they begin at the time of day).
# Usage: tests/fuzz/run.sh SECONDS [BUILD_FOLDER], default build/release; needs its fuzz_test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ $# -lt 1 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo 'usage: tests/fuzz/run.sh SECONDS [BUILD_FOLDER]' >&2
  exit 2
fi
# A reader that asks for ever more memory must not take the machine with it. Sanitizers reserve terabytes.
case "${2:-build/release}" in *asan* | *tsan*) ;; *) ulimit -v $((6 << 20)) ;; esac
export PALIMPSEST_FUZZ_SECONDS=$1 PALIMPSEST_FUZZ_SEED=${PALIMPSEST_FUZZ_SEED:-$(date +%s)000}
exec "${2:-build/release}/bin/fuzz_test" --gtest_filter='*WhatIsBrokenIsRefusedInPeace*'
