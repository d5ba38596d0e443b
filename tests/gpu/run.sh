#!/usr/bin/env bash
# Runs every test of kernels, the engine's, and the benches on this machine's GPU and writes a table with hardware and commands.
#   tests/gpu/run.sh                                   builds by the preset cuda first
#   tests/gpu/run.sh --binaries DIR [--out FOLDER]     takes binaries that were built elsewhere; what links torch and cuBLAS is
#                                                      left out, and said to be, where it is not in DIR or does not start
# FOLDER (default: build/gpu) gets report.md, a log per program and, where ncu can read the device's counters, the time of
# each kernel. Exits with 1 when a test failed, with 2 when there is no GPU or a binary is missing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tests=(model_cuda_test attention_cuda_test decode_graph_test compaction_cuda_test)
engine_tests=(model_products_test inference_device_test)
bench=gpu_bench
engine_bench=gpu_engine_bench
test_seconds=100
bench_seconds=150
prompts_seconds=1200
engine_bench_seconds=600

binaries='' out=build/gpu
while [ $# -gt 0 ]; do
  case "$1 ${2-}" in
    '--binaries '?*) binaries=$2 ;;
    '--out '?*) out=$2 ;;
    *) printf 'usage: tests/gpu/run.sh [--binaries DIR] [--out FOLDER] (got: %s)\n' "$*" >&2; exit 2 ;;
  esac
  shift 2
done

hardware=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null) || {
  echo 'tests/gpu/run.sh: no GPU here: nvidia-smi is missing or fails. What runs without one are the same tests, emulated:' >&2
  echo '  ctest --preset release -L emulated' >&2
  exit 2
}
if [ -z "$binaries" ]; then
  cmake --preset cuda && cmake --build --preset cuda || exit 2
  binaries=build/cuda/bin
fi
with_engine=1
for program in "${engine_tests[@]}" "$engine_bench"; do
  # Its libraries are where it was built, or not at all.
  if [ ! -f "$binaries/$program" ] || ldd "$binaries/$program" 2> /dev/null | grep -q 'not found'; then with_engine=0; fi
done
if [ "$with_engine" = 1 ]; then tests+=("${engine_tests[@]}"); fi
for program in "${tests[@]}" "$bench"; do
  [ -f "$binaries/$program" ] || { echo "tests/gpu/run.sh: $binaries/$program is missing" >&2; exit 2; }
  chmod +x "$binaries/$program" 2> /dev/null || true
done

mkdir -p "$out"
report=$out/report.md
{
  printf '# Kernels on a GPU\n\n%s; %s; commit %s\n\n' "$hardware" "$(date -u +%Y-%m-%dT%H:%MZ)" \
    "$(git rev-parse --short HEAD 2> /dev/null || echo unknown)"
  printf 'Command: `tests/gpu/run.sh`. Tests:\n\n| test | outcome | seconds |\n|---|---|---|\n'
} > "$report"

failed=0
for program in "${tests[@]}"; do
  begin=$(date +%s)
  if timeout "$test_seconds" "$binaries/$program" > "$out/$program.log" 2>&1; then
    outcome=$(grep -o 'PASSED.*tests' "$out/$program.log" | tail -n 1)
  else
    outcome="**FAILED ($?)**" failed=1
    grep -E 'Failure|error|FAILED|wrote|kernel' "$out/$program.log" | head -n 20
  fi
  printf '| %s | %s | %d |\n' "$program" "$outcome" $(($(date +%s) - begin)) | tee -a "$report"
done

printf '\nBench:\n\n' >> "$report"
timeout "$bench_seconds" "$binaries/$bench" 2>&1 | tee -a "$report" || failed=1
printf '\nPrompts shared and replicated:\n\n' >> "$report"
timeout "$prompts_seconds" "$binaries/$bench" prompts 2>&1 | tee -a "$report" || failed=1
if [ "$with_engine" = 1 ]; then
  printf '\nEngine:\n\n' >> "$report"
  timeout "$engine_bench_seconds" "$binaries/$engine_bench" 2>&1 | tee -a "$report" || failed=1
else
  printf '\nThe engine was not run: %s are not in the folder of binaries, or their libraries are not on this machine.\n' \
    "${engine_tests[*]} $engine_bench" | tee -a "$report"
fi
if command -v ncu > /dev/null; then
  timeout "$bench_seconds" ncu --clock-control none --metrics gpu__time_duration.sum --csv --kernel-name-base demangled \
    --launch-count 400 --graph-profiling node "$binaries/$bench" > "$out/kernels.csv" 2> "$out/ncu.log" ||
    echo "ncu did not run to its end; see $out/ncu.log"
fi
echo "report: $report"
exit "$failed"
