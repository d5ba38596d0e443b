#!/usr/bin/env bash
# Many histories, in one process per core. usage: tests/simulation/run.sh [SEEDS [FIRST_SEED [BUILD_FOLDER]]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seeds=${1:-10000}
first=${2:-1}
build=${3:-build/release}
cores=$(nproc)
share=$(((seeds + cores - 1) / cores))

pids=()
core=0
for ((begin = first; begin < first + seeds; begin += share)); do
  left=$((first + seeds - begin))
  PALIMPSEST_SIMULATION_FIRST=$begin PALIMPSEST_SIMULATION_SEEDS=$((left < share ? left : share)) \
    taskset -c $((core++)) "$build/bin/simulation_test" --gtest_filter='*NoPromise*' &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
((status)) || printf 'long: no promise broken in %d seeds from %d on\n' "$seeds" "$first"
exit "$status"
