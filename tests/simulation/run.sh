#!/usr/bin/env bash
# Many histories, in one process per core. usage: tests/simulation/run.sh [SEEDS [FIRST_SEED [BUILD_FOLDER]]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seeds=${1-10000}
first=${2-1}
build=${3-build/release}

die() { printf 'run.sh: %s; usage: run.sh [SEEDS [FIRST_SEED [BUILD_FOLDER]]]\n' "$*" >&2; exit 2; }
[[ $seeds =~ ^[1-9][0-9]{0,14}$ ]] || die "SEEDS=$seeds is no whole number from 1 on, of 15 digits at most"
[[ $first =~ ^(0|[1-9][0-9]{0,14})$ ]] || die "FIRST_SEED=$first is no whole number of 15 digits at most"
[ -x "$build/bin/simulation_test" ] || die "BUILD_FOLDER=$build has no bin/simulation_test"

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
