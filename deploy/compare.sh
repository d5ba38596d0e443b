#!/usr/bin/env bash
# Ways to train, compared. For each seed one warm start, then RL from it once per way: the same prompts, the same draws.
# Then the table in docs/results/. What the ways are, a study says (deploy/studies/): `compare`, what training under
# compaction costs, and `gradients`, what of compaction it needs. Finished runs are kept, an interrupted one goes on: start
# it again with the same arguments.
#
#   deploy/compare.sh [--study compare] [--seeds 1,2,3] [--ways WAY,..] [--jobs 1] [--quick]
#
# --jobs N: N seeds at once, each daemon with one thread. More gets done than with two threads a daemon, since trainer
# and inference of a run take turns; minutes and tokens/s of the table are then those of a shared machine.
# --quick: a tiny model, a few steps and 8 prompts, into runs/<study>-quick/ only; it shows that all parts work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

study=compare
seeds=1,2,3
ways=
jobs=1
quick=false
typed="deploy/compare.sh${*:+ $*}"

refuse() { printf 'compare: %s\n' "$*" >&2; exit 2; }
say() { printf 'compare: %s\n' "$*" >&2; }

while [ $# -gt 0 ]; do
  case $1 in
    --study | --seeds | --ways | --jobs)
      [ $# -ge 2 ] || refuse "$1 needs a value"
      case $1 in
        --study) study=$2 ;;
        --seeds) seeds=$2 ;;
        --ways)
          [ -n "$2" ] || refuse "--ways is empty"
          ways=$2
          ;;
        --jobs) jobs=$2 ;;
      esac
      shift 2
      ;;
    --quick) quick=true; shift ;;
    *) refuse "unknown argument '$1' (there are --study, --seeds, --ways, --jobs and --quick)" ;;
  esac
done

[[ $study =~ ^[a-z]+$ && -f deploy/studies/$study.sh ]] ||
  refuse "--study '$study' is not one of $(cd deploy/studies && echo *.sh | sed 's/\.sh//g; s/ /, /g')"
# What a study says: config, all_ways, prompts, minutes, quick_contexts, report, sets_of, others_of.
# shellcheck source=studies/compare.sh
source "deploy/studies/$study.sh"
ways=${ways:-$all_ways}

[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "--seeds '$seeds' is no list of numbers such as 1,2,3"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || refuse "--jobs '$jobs' is not a number from 1 on"
IFS=, read -ra seed_list <<< "$seeds"
IFS=, read -ra way_list <<< "$ways"
for way in "${way_list[@]}"; do
  [[ $way != "" && ,$all_ways, == *",$way,"* ]] || refuse "--ways: '$way' is not one of $all_ways"
done
for list in "$seeds" "$ways"; do
  twice=$(tr , '\n' <<< "$list" | sort | uniq -d | head -n 1)
  [ -z "$twice" ] || refuse "'$twice' is there twice"
done

runs=runs/$study
results=docs/results
warm_sets=(--set orchestrator.rl.steps=0 --set orchestrator.heldout.prompts=1 --set 'orchestrator.heldout.also=[]')
all_sets=()
if [ "$jobs" -gt 1 ]; then all_sets=(--set trainer.threads=1 --set inference.threads=1); fi
if $quick; then
  runs=runs/$study-quick
  results=$runs/results
  prompts=8
  all_sets+=(
    --set 'model.init={layers: 2, hidden: 32, intermediate: 64, heads: 2, kv_heads: 1, head_dim: 16, max_position: 256}'
    --set orchestrator.rl.prompts_per_batch=4 --set orchestrator.rl.samples=4)
  warm_sets+=(--set "orchestrator.sft=[{name: lines, max_steps: 3, batch: 8},
    {name: memory, max_steps: 2, batch: 8, answer_noise: 0.85, contexts: $quick_contexts}]")
fi

# How many runs are left and how long they will take, by what finished runs of the kind took, or else by what is known
# of 2 cores. A kind is the folder's name.
left() {
  python3 - "$quick" "$jobs" "$runs" "$seeds" "$ways" "$minutes" << 'PY'
import json, pathlib, sys
quick, jobs, runs, known = sys.argv[1] == "true", int(sys.argv[2]), pathlib.Path(sys.argv[3]), json.loads(sys.argv[6])
number, total = 0, 0.0
for seed in sys.argv[4].split(","):
    for kind in ["warm", *sys.argv[5].split(",")]:
        if (runs / seed / kind / "report/report.json").exists():
            continue
        took = [json.loads(path.read_text())["wall_s"] / 60 for path in runs.glob(f"*/{kind}/report/report.json")]
        number += 1
        total += sum(took) / len(took) / jobs if took else 0.25 if quick else known.get(kind, 5)
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
  local seed=$1 warm=$runs/$1/warm start way way_sets rl_sets
  run "$warm" --set "run.seed=$seed" "${warm_sets[@]}"
  start=$(newest_version "$warm")
  for way in "${way_list[@]}"; do
    sets_of "$way"
    rl_sets=(--set "run.seed=$seed" --set "model.folder=$start" --set 'orchestrator.sft=[]' "${way_sets[@]}"
      --set "orchestrator.heldout.prompts=$prompts" --set "orchestrator.heldout.also=$(others_of "$way")")
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

python3 "$report" --runs "$runs" --seeds "$seeds" --ways "$ways" --config "$config" --out "$results" \
  --command "$typed" --commit "$(git describe --always --dirty 2> /dev/null || echo unknown)"
