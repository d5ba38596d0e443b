#!/usr/bin/env bash
# From a fresh Debian machine to a trained model: installs, builds, runs four daemons on this machine until the run of
# deploy/configs/quickstart.yaml is over, and holds its report against what is promised. A run that was interrupted goes
# on where it was; remove its folder to begin again. Arguments go to `palimpsest launch` (--set a.b=c).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in -h | --help)
  printf 'usage: deploy/quickstart.sh [--set section.key=value]...  (installs, builds, runs deploy/configs/quickstart.yaml)\n'
  exit 0
  ;;
esac

# shellcheck source=build.sh
source deploy/build.sh
build_release palimpsest palimpsest-env palimpsest-inference palimpsest-trainer palimpsest-orchestrator palimpsest-page

outcome=$(mktemp)
trap 'rm -f "$outcome"' EXIT
status=0
# What the report says is to be typed; with arguments it is the line below.
named=()
if [ $# -eq 0 ]; then named=(--set orchestrator.command=deploy/quickstart.sh); fi
build/release/bin/palimpsest launch --config deploy/configs/quickstart.yaml "${named[@]}" "$@" > "$outcome" || status=$?
if [ "$status" -eq 130 ] || [ "$status" -eq 143 ]; then
  echo "quickstart: stopped; the same command goes on where the run was" >&2
  exit "$status"
fi
if [ "$status" -ne 0 ]; then
  echo "quickstart: the run failed (exit code $status)" >&2
  cat "$outcome" >&2
  exit "$status"
fi

report=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["report"])' "$outcome")
echo
echo "report: $(dirname "$report")"
python3 - "$report" << 'PY'
import json, sys
report = json.load(open(sys.argv[1]))
for name in ("reward_first", "reward_last", "greedy_first", "greedy_last", "steps", "wall_s", "tokens_per_s",
             "events_per_rollout", "kv_budget", "mean_total_tokens", "mismatch_kl", "mismatch_max_abs",
             "staleness_max", "policy_versions"):
    print(f"  {name:<20} {report.get(name)}")
PY
echo
python3 deploy/check_report.py "$report"
