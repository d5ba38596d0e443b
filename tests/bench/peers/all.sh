#!/usr/bin/env bash
# The benches against peers, on a machine that does nothing else: llama.cpp and transformers beside the engine, transformers + torch beside the
# trainer. Some 25 minutes on two cores, 20 GB of memory. What they print goes into a page. Part of `tests/run.sh --long` (peers).
#   tests/bench/peers/all.sh [PAGE [MODELS]]   (docs/results/peers_bench.md; MODELS: a folder where the models stay, 4 GB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
if [ $# -gt 2 ]; then
  printf 'usage: tests/bench/peers/all.sh [PAGE [MODELS]]\n' >&2
  exit 2
fi
page=${1:-docs/results/peers_bench.md}

deploy/setup.sh --peers
# shellcheck source=../../../deploy/build.sh
source deploy/build.sh
build_release engine_bench stream_bench event_bench train_bench palimpsest palimpsest-inference
list=$(sha256sum deploy/peers.txt | cut -c1-12)
python=${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/peers-$list/bin/python

if [ $# -eq 2 ]; then
  models=$2
  mkdir -p "$models"
else
  models=$(mktemp -d)
  trap 'rm -rf "$models"' EXIT
fi
[ -f "$models/serve/model.gguf" ] || "$python" tests/bench/peers/make_model.py "$models/serve"
[ -f "$models/train/model.safetensors" ] || "$python" tests/bench/peers/make_model.py "$models/train" --layers 14

written=$(mktemp)
# shellcheck disable=SC2016  # code in Markdown
{
  printf '# What the benches against peers print\n\nWritten by `tests/bench/peers/all.sh`. What a row is: [tests/bench](../../tests/bench/README.md).\n\n'
  printf '%s Load before: %s.\n' "$(python3 tests/integration/gate/report.py --where)" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
} > "$written"
# bench TITLE SCRIPT ARGUMENT..: the threads of these wait as they do by default.
bench() {
  printf 'peers: %s\n' "$1" >&2
  # shellcheck disable=SC2016  # a fence of Markdown
  {
    printf '\n## %s\n\n```\n' "$1"
    env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT "$python" "${@:2}"
    printf '```\n'
  } >> "$written"
}
bench 'The engine' tests/bench/peers/compare.py "$models/serve"
bench 'A training step, fp32' tests/bench/peers/train_compare.py "$models/train" --dtypes float32
bench 'A training step, bf16' tests/bench/peers/train_compare.py "$models/train" --dtypes bfloat16
printf '\nLoad after: %s.\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)" >> "$written"
cp "$written" "$page"
printf 'peers: %s is written\n' "$page" >&2
