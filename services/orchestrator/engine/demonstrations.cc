#include "services/orchestrator/engine/demonstrations.h"

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "services/orchestrator/core/decisions.h"

namespace palimpsest::orchestrator {
namespace {

absl::StatusOr<SftItem> MakeItem(const Workplace& place, const SftConfig& stage, int64_t index) {
  const uint64_t seed = MixSeed({place.run.seed, Meaning("sft"), Meaning(stage.name)});
  const Episode episode = EpisodeOf(place.plan, Split::kSft, seed, index);
  ASSIGN_OR_RETURN(const Prompt prompt, place.patience.Persist("env.reset", [&] {
    return place.peers.env.Reset(episode);
  }));
  ASSIGN_OR_RETURN(const std::string response, place.patience.Persist("env.demonstrate", [&] {
    return place.peers.env.Demonstrate(prompt.episode, stage.answer_noise);
  }));
  SftItem item{.id = absl::StrFormat("%s.%d", stage.name, index)};
  ASSIGN_OR_RETURN(item.ids, place.tokenizer->Encode(prompt.text));
  if (item.ids.empty()) return absl::InvalidArgumentError("env.prompt: it has no tokens");
  item.prompt_tokens = static_cast<int32_t>(item.ids.size());
  ASSIGN_OR_RETURN(const std::vector<int32_t> answer, place.tokenizer->Encode(response));
  item.ids.insert(item.ids.end(), answer.begin(), answer.end());
  if (place.plan.stop_strings.empty() && !place.model.stop_ids.empty()) {
    item.ids.push_back(place.model.stop_ids.front());
  }
  item.loss_mask.assign(item.ids.size(), true);
  for (int32_t i = 0; i < item.prompt_tokens; ++i) item.loss_mask[static_cast<size_t>(i)] = false;
  return item;
}

}  // namespace

absl::Status BuildDemonstrations(const Workplace& place, const SftConfig& stage, int64_t stage_step,
                                 TrainBatch& batch) {
  const auto contexts = static_cast<int64_t>(stage.contexts.size());
  ASSIGN_OR_RETURN(
      batch.context,
      FindContext(place.plan, stage.contexts[static_cast<size_t>(stage_step % contexts)]));
  batch.learning_rate =
      LearningRateAt(stage.learning_rate, stage.warmup, stage_step, stage.max_steps);
  batch.sft.resize(static_cast<size_t>(stage.batch));
  return place.workers.ForEach(stage.batch, [&](int64_t i) -> absl::Status {
    ASSIGN_OR_RETURN(batch.sft[static_cast<size_t>(i)],
                     MakeItem(place, stage, stage_step * stage.batch + i));
    return absl::OkStatus();
  });
}

}  // namespace palimpsest::orchestrator
