#!/usr/bin/env bash
# Builds all that the preset cuda has by nvcc; 77 where there is none. Nothing of it runs: that needs a GPU (run.sh).
#   tests/gpu/build_test.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=../../deploy/build.sh
source deploy/build.sh

found=
for nvcc in "$(command -v nvcc || true)" "${CUDA_HOME:-}/bin/nvcc" "${CUDA_PATH:-}/bin/nvcc" /usr/local/cuda/bin/nvcc; do
  if [ -x "$nvcc" ]; then found=$nvcc; fi
done
if [ -z "$found" ]; then
  echo 'tests/gpu/build_test.sh: no nvcc in PATH, CUDA_HOME, CUDA_PATH or /usr/local/cuda: nothing was compiled' >&2
  exit 77
fi
begin=$(date +%s)
cmake --preset cuda
cmake --build --preset cuda -j "$(build_jobs)"
for program in model_cuda_test attention_cuda_test compaction_cuda_test decode_graph_test gpu_bench model_products_test inference_device_test gpu_engine_bench; do
  [ -x "build/cuda/bin/$program" ] || { echo "tests/gpu/build_test.sh: build/cuda/bin/$program was not built" >&2; exit 1; }
done
printf 'long: the preset cuda is built by %s, %d s with what was there\n' "$("$found" --version | grep -o 'release [0-9.]*')" $(($(date +%s) - begin))
