#!/usr/bin/env bash
# Trains a small model to act over several turns: BabyAI's GoToObj as text, by deploy/configs/babyai.yaml. Installs (the
# Python of environment workers, too), builds, runs four daemons on this machine until the run is over, and shows its
# numbers. A run that was interrupted goes on where it was. Arguments go to `palimpsest launch` (--set a.b=c).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deploy/setup.sh --python-envs
# shellcheck source=build.sh
source deploy/build.sh
build_release palimpsest palimpsest-env palimpsest-inference palimpsest-trainer palimpsest-orchestrator

outcome=$(mktemp)
trap 'rm -f "$outcome"' EXIT
build/release/bin/palimpsest launch --config deploy/configs/babyai.yaml "$@" > "$outcome" || {
  status=$?
  cat "$outcome" >&2
  exit "$status"
}
python3 - "$outcome" << 'PY'
import json, sys
path = json.load(open(sys.argv[1]))["report"]
report = json.load(open(path))
print(f"report: {path}")
for name in ("reward_first", "reward_last", "greedy_first", "greedy_last", "steps", "wall_s", "turns_per_rollout",
             "events_per_rollout", "mean_total_tokens", "mismatch_kl", "mismatch_max_abs"):
    print(f"  {name:<20} {report.get(name)}")
PY
