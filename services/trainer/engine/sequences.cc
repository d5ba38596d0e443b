#include "services/trainer/engine/sequences.h"

#include <map>
#include <set>

#include "common/attention/draft_events.h"
#include "common/rl/packing.h"
#include "services/trainer/engine/cost.h"

namespace palimpsest::trainer {

LossSequence SequenceOf(const RlItem& item) {
  const rl::Rollout& rollout = item.rollout;
  LossSequence sequence{.temperature = rollout.temperature};
  sequence.replay = {.tokens = rollout.tokens,
                     .prompt_tokens = rollout.prompt_tokens,
                     .rows = static_cast<int32_t>(rollout.tokens.size()) - 1};
  // A prompt of all tokens has no response row; its last token is not processed either.
  sequence.replay.prompt_tokens = std::min(sequence.replay.prompt_tokens, sequence.replay.rows);
  for (const context::Event& event : rollout.events) sequence.replay.events.push_back({event});
  for (size_t i = 1; i < rollout.tokens.size(); ++i) {
    if (rollout.origins[i] != rl::Origin::kSampled) continue;
    sequence.tokens.push_back({.position = static_cast<int32_t>(i),
                               .recorded = rollout.logprobs[i],
                               .advantage = item.advantage,
                               .weight = item.weight});
  }
  return sequence;
}

absl::StatusOr<LossSequence> SequenceOf(const SftItem& item, context::Shape shape) {
  LossSequence sequence;
  const auto rows = static_cast<int32_t>(item.ids.size()) - 1;
  sequence.replay = {
      .tokens = item.ids, .prompt_tokens = std::min(item.prompt_tokens, rows), .rows = rows};
  ASSIGN_OR_RETURN(
      sequence.replay.events,
      attention::DraftEvents(item.context, shape, item.prompt_tokens, rows, item.turn_begins));
  for (size_t i = 1; i < item.ids.size(); ++i) {
    if (!item.loss_mask[i]) continue;
    sequence.tokens.push_back({.position = static_cast<int32_t>(i), .weight = item.weight});
  }
  return sequence;
}

std::vector<int64_t> PromptGroups(const std::vector<LossSequence>& sequences) {
  // Prompts with events of their own are not counted as shared: they may differ.
  std::map<std::vector<int32_t>, int64_t> group_of;
  int64_t groups = 0;
  std::vector<int64_t> found;
  for (const LossSequence& sequence : sequences) {
    const attention::ReplaySequence& s = sequence.replay;
    int64_t group = groups;
    if (s.events.empty() || s.events.front().event.at >= s.prompt_tokens) {
      group = group_of.try_emplace({s.tokens.begin(), s.tokens.begin() + s.prompt_tokens}, groups)
                  .first->second;
    }
    if (group == groups) ++groups;
    found.push_back(group);
  }
  return found;
}

size_t PiecesInFront(std::span<const MicroBatch> micro_batches) {
  size_t count = 1;
  while (count < micro_batches.size() && micro_batches[count].cut == micro_batches.front().cut) {
    ++count;
  }
  return count;
}

absl::StatusOr<MicroBatches> Pack(const std::vector<LossSequence>& sequences,
                                  const model::ModelConfig& config, int64_t max_rows) {
  const double pair_cost = PairCost(config);
  const std::vector<int64_t> groups = PromptGroups(sequences);
  std::vector<rl::PackItem> items;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const attention::ReplaySequence& s = sequences[i].replay;
    const SequenceCost cost = CostOf(s, pair_cost);
    items.push_back({.group = groups[i],
                     .prompt_tokens = s.prompt_tokens,
                     .rows = s.rows,
                     .prompt_cost = cost.prompt,
                     .own_cost = cost.own});
  }
  ASSIGN_OR_RETURN(const std::vector<std::vector<int>> parts,
                   rl::PackMicroBatches(items, max_rows));
  std::map<int64_t, std::set<size_t>> places;  // of each group
  std::map<int64_t, const LossSequence*> first;
  for (size_t p = 0; p < parts.size(); ++p) {
    for (const int i : parts[p]) places[groups[i]].insert(p);
  }
  for (size_t i = 0; i < sequences.size(); ++i) first.try_emplace(groups[i], &sequences[i]);
  MicroBatches micro_batches;
  for (const std::vector<int>& part : parts) {
    MicroBatch& micro_batch = micro_batches.emplace_back();
    for (const int i : part) {
      micro_batch.sequences.push_back(&sequences[i]);
      if (places[groups[i]].size() < 2 || sequences[i].replay.prompt_tokens == 0) continue;
      micro_batch.cut = first[groups[i]];
    }
  }
  return micro_batches;
}

}  // namespace palimpsest::trainer
