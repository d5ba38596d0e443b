# shellcheck shell=bash disable=SC2034  # what compare.sh reads
# What does training under compaction cost? A way is a context policy of deploy/configs/compare.yaml.
config=deploy/configs/compare.yaml
all_ways=none,am4,evict4,markovian,am8,evict8
prompts=512
minutes='{"warm": 10, "none": 5, "am4": 6.5, "evict4": 5.5, "markovian": 5, "am8": 11, "evict8": 8}'
quick_contexts='[am4, am8]'
report=deploy/compare_report.py

sets_of() { way_sets=(--set "orchestrator.rl.context=$1"); }

# The policy whose RL never met compaction tells what that costs, the others whether they still know the whole context.
others_of() {
  if [ "$1" = none ]; then echo '[am4]'; else echo '[none]'; fi
}
