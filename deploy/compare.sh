#!/usr/bin/env bash
# What does training under compaction cost? For each seed one warm start, then RL from it once per way: the same
# prompts, the same draws, each way under its own context policy of deploy/configs/compare.yaml. Then the table and the
# picture in docs/results/. Finished runs are kept, an interrupted one goes on: start it again with the same arguments.
#
#   deploy/compare.sh [--seeds 1,2,3] [--ways none,am4,evict4,markovian,am8,evict8] [--jobs 1] [--quick]
#
# --jobs N: N seeds at once, each daemon with one thread. More gets done than with two threads a daemon, since trainer
# and inference of a run take turns; minutes and tokens/s of the table are then those of a shared machine.
# --quick: a tiny model, a few steps and 8 prompts, into runs/compare-quick/ only; it shows that all parts work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=deploy/configs/compare.yaml
all_ways=none,am4,evict4,markovian,am8,evict8
seeds=1,2,3
ways=$all_ways
jobs=1
quick=false
typed="deploy/compare.sh${*:+ $*}"

refuse() { printf 'compare: %s\n' "$*" >&2; exit 2; }
say() { printf 'compare: %s\n' "$*" >&2; }

while [ $# -gt 0 ]; do
  case $1 in
    --seeds | --ways | --jobs)
      [ $# -ge 2 ] || refuse "$1 needs a value"
      case $1 in
        --seeds) seeds=$2 ;;
        --ways) ways=$2 ;;
        --jobs) jobs=$2 ;;
      esac
      shift 2
      ;;
    --quick) quick=true; shift ;;
    *) refuse "unknown argument '$1' (there are --seeds, --ways, --jobs and --quick)" ;;
  esac
done

[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "--seeds '$seeds' is no list of numbers such as 1,2,3"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || refuse "--jobs '$jobs' is not a number from 1 on"
IFS=, read -ra seed_list <<< "$seeds"
IFS=, read -ra way_list <<< "$ways"
[ "${#way_list[@]}" -gt 0 ] || refuse "--ways is empty"
for way in "${way_list[@]}"; do
  [[ $way != "" && ,$all_ways, == *",$way,"* ]] || refuse "--ways: '$way' is not one of $all_ways"
done
for list in "$seeds" "$ways"; do
  twice=$(tr , '\n' <<< "$list" | sort | uniq -d | head -n 1)
  [ -z "$twice" ] || refuse "'$twice' is there twice"
done

runs=runs/compare
results=docs/results
prompts=512
warm_sets=(--set orchestrator.rl.steps=0 --set orchestrator.heldout.prompts=1 --set 'orchestrator.heldout.also=[]')
all_sets=()
if [ "$jobs" -gt 1 ]; then all_sets=(--set trainer.threads=1 --set inference.threads=1); fi
if $quick; then
  runs=runs/compare-quick
  results=$runs/results
  prompts=8
  all_sets+=(
    --set 'model.init={layers: 2, hidden: 32, intermediate: 64, heads: 2, kv_heads: 1, head_dim: 16, max_position: 256}'
    --set orchestrator.rl.prompts_per_batch=4 --set orchestrator.rl.samples=4)
  warm_sets+=(--set 'orchestrator.sft=[{name: lines, max_steps: 3, batch: 8},
    {name: memory, max_steps: 2, batch: 8, answer_noise: 0.85, contexts: [am4, am8]}]')
fi

# What the policy of `way` is measured under besides: the one whose RL never met compaction tells what that costs, the
# others whether they still know the whole context.
others_of() {
  if [ "$1" = none ]; then echo '[am4]'; else echo '[none]'; fi
}

# How many runs are left and how long they will take, by what finished runs of the kind took, or else by what is known
# of 2 cores. A kind is the folder's name.
left() {
  python3 - "$quick" "$jobs" "$runs" "$seeds" "$ways" << 'PY'
import json, pathlib, sys
KNOWN = {"warm": 10, "none": 5, "am4": 6.5, "evict4": 5.5, "markovian": 5, "am8": 11, "evict8": 8}
quick, jobs, runs = sys.argv[1] == "true", int(sys.argv[2]), pathlib.Path(sys.argv[3])
number, total = 0, 0.0
for seed in sys.argv[4].split(","):
    for kind in ["warm", *sys.argv[5].split(",")]:
        if (runs / seed / kind / "report/report.json").exists():
            continue
        took = [json.loads(path.read_text())["wall_s"] / 60 for path in runs.glob(f"*/{kind}/report/report.json")]
        number += 1
        total += sum(took) / len(took) / jobs if took else 0.25 if quick else KNOWN[kind]
print(f"{number} runs to go, about {total:.0f} minutes")
PY
}

# The newest version in the store of a run.
newest_version() {
  local version newest=""
  for version in "$1"/store/v*; do
    [ ! -f "$version/manifest.json" ] || newest=$version
  done
  [ -n "$newest" ] || { say "$1/store holds no version"; exit 1; }
  printf '%s\n' "$newest"
}

# What each daemon makes of the arguments, word for word, defaults too.
effective_settings() {
  local daemon
  for daemon in env trainer inference orchestrator; do
    "build/release/bin/palimpsest-$daemon" --config "$config" "$@" --print-config
  done
}

# run FOLDER [--set ..]: nothing when its report is there. `settings` says of what the folder is made: to go on with
# others would mix two runs.
run() {
  local folder=$1 status=0
  shift
  local sets=(--set "run.folder=$folder" --set "run.name=${folder//\//-}" "${all_sets[@]}" "$@")
  mkdir -p "$folder"
  effective_settings "${sets[@]}" > "$folder/settings.now"
  if [ ! -f "$folder/settings" ]; then
    mv "$folder/settings.now" "$folder/settings"
  elif ! diff "$folder/settings" "$folder/settings.now" >&2; then
    refuse "$folder was made with other settings, see above; remove $(dirname "$folder") to begin this seed again"
  fi
  if [ -f "$folder/report/report.json" ]; then
    say "$folder is finished"
    return
  fi
  say "$folder begins or goes on; $(left)"
  build/release/bin/palimpsest launch --config "$config" "${sets[@]}" > "$folder/outcome.json" || status=$?
  if [ "$status" -ne 0 ] || [ ! -f "$folder/report/report.json" ]; then
    say "$folder did not finish (exit code $status): $(cat "$folder/outcome.json")"
    exit $((status == 0 ? 1 : status))
  fi
}

# shellcheck source=build.sh
source deploy/build.sh
build_release palimpsest palimpsest-env palimpsest-inference palimpsest-trainer palimpsest-orchestrator

say "$(left)"

# One seed from its warm start to the last way.
run_seed() {
  local seed=$1 warm=$runs/$1/warm start way
  run "$warm" --set "run.seed=$seed" "${warm_sets[@]}"
  start=$(newest_version "$warm")
  for way in "${way_list[@]}"; do
    rl_sets=(--set "run.seed=$seed" --set "model.folder=$start" --set 'orchestrator.sft=[]'
      --set "orchestrator.rl.context=$way" --set "orchestrator.heldout.prompts=$prompts"
      --set "orchestrator.heldout.also=$(others_of "$way")")
    if $quick; then rl_sets+=(--set orchestrator.rl.steps=2); fi
    run "$runs/$seed/$way" "${rl_sets[@]}"
  done
}

# The first failure, and Ctrl-C, end all: `launch` of every seed stops its daemons, to go on later.
stop_seeds() {
  local seed
  for seed in $(jobs -p); do
    pkill -TERM -P "$seed" || true
    kill "$seed" 2> /dev/null || true
  done
}
trap stop_seeds EXIT
running=0
for seed in "${seed_list[@]}"; do
  if [ "$running" -ge "$jobs" ]; then wait -n; else running=$((running + 1)); fi
  run_seed "$seed" &
done
while [ "$running" -gt 0 ]; do
  wait -n
  running=$((running - 1))
done

python3 deploy/compare_report.py --runs "$runs" --seeds "$seeds" --ways "$ways" --config "$config" --out "$results" \
  --command "$typed" --commit "$(git describe --always --dirty 2> /dev/null || echo unknown)"
