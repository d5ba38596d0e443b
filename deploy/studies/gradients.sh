# shellcheck shell=bash disable=SC2034  # what compare.sh reads
# What of compaction does RL need? Each way changes one thing of `full`: how gradients go through events, what the fit is
# made of, how much is compacted, or who chooses. Policies are those of deploy/configs/gradients.yaml.
config=deploy/configs/gradients.yaml
all_ways=full,straight_through,detached,no_beta,none,evict,random_references,references_32,references_96,references_all,x2,x4,stack,accumulated,carried_max,diverse,x8
prompts=256
minutes='{"warm": 2.5}'
quick_contexts='[am, evict]'
report=deploy/gradients_report.py

sets_of() {
  case $1 in
    full) way_sets=(--set orchestrator.rl.context=am) ;;
    straight_through | detached) way_sets=(--set orchestrator.rl.context=am --set "trainer.gradient=$1") ;;
    *) way_sets=(--set "orchestrator.rl.context=$1") ;;
  esac
}

# Two policies are measured under every other way, too: the one trained under `am`, and the one that never met compaction.
others_of() {
  local all=no_beta,random_references,references_32,references_96,references_all,x2,x4,x8,stack,evict,accumulated,carried_max,diverse
  case $1 in
    full) echo "[none,$all]" ;;
    none) echo "[am,$all]" ;;
    straight_through | detached) echo '[none]' ;;
    *) echo '[none,am]' ;;
  esac
}
