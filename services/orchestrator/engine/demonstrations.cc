#include "services/orchestrator/engine/demonstrations.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/rl/episode.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/framing.h"
#include "services/orchestrator/engine/task_calls.h"

namespace palimpsest::orchestrator {
namespace {

void Append(const std::vector<int32_t>& ids, bool learnt, SftItem& item) {
  item.ids.insert(item.ids.end(), ids.begin(), ids.end());
  item.loss_mask.resize(item.ids.size(), learnt);
}

// As inference tells a response: without what follows its stop string.
std::string CutAtStop(const std::string& response, const std::vector<std::string>& stops) {
  size_t end = response.size();
  for (const std::string& stop : stops) end = std::min(end, response.find(stop));
  return response.substr(0, end);
}

// One demonstration, turn by turn; what the environment says is not learnt.
class Demonstration {
 public:
  Demonstration(const Workplace& place, const SftConfig& stage, const Prompt& prompt,
                const Framing& framing, SftItem& item)
      : place_(place),
        stage_(stage),
        prompt_(prompt),
        framing_(framing),
        item_(item),
        episode_(prompt.episode),
        bounds_{.max_turns = std::max(1, prompt.max_turns),
                .max_response = place.model.max_position,
                .max_position = place.model.max_position} {}

  absl::Status Write() {
    ASSIGN_OR_RETURN(std::vector<int32_t> said, framing_.PromptIds());
    item_.prompt_tokens = static_cast<int32_t>(said.size());
    for (rl::EpisodeView view; !view.done;) {
      view.tokens = static_cast<int32_t>(item_.ids.size() + said.size());
      if (!rl::NextResponse(view, bounds_)) break;
      const absl::StatusOr<std::string> response = AskTask(place_, "env.demonstrate", [&] {
        return place_.peers.env.Demonstrate(episode_, stage_.answer_noise);
      });
      // An expert that knows no further has shown as much as it can.
      if (absl::IsUnimplemented(response.status()) && view.responses > 0) break;
      RETURN_IF_ERROR(response.status());
      ASSIGN_OR_RETURN(const std::vector<int32_t> ids, framing_.ResponseIds(*response));
      const auto tokens = view.tokens + static_cast<int32_t>(ids.size());
      if (tokens > bounds_.max_position && view.responses > 0) break;
      if (prompt_.max_turns > 0) {
        item_.turn_begins.push_back(view.responses > 0 ? static_cast<int32_t>(item_.ids.size())
                                                       : item_.prompt_tokens);
      }
      Append(said, false, item_);
      Append(ids, true, item_);
      ++view.responses;
      ASSIGN_OR_RETURN(view.done, Observe(*response, said));
    }
    if (!item_.ids.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("env.prompt has %d tokens, the model's max_position is %d",
                        item_.prompt_tokens, bounds_.max_position));
  }

 private:
  // The environment's turn; true when there is none any more.
  absl::StatusOr<bool> Observe(const std::string& response, std::vector<int32_t>& said) {
    if (prompt_.max_turns == 0) return true;
    const std::string text = CutAtStop(response, framing_.stops());
    ASSIGN_OR_RETURN(EnvTurn turn, AskTask(place_, "env.step",
                                           [&] { return place_.peers.env.Step(episode_, text); }));
    episode_ = std::move(turn.episode);
    if (turn.done) return true;
    ASSIGN_OR_RETURN(said, framing_.ObservationIds(turn.messages, item_.ids.back()));
    return false;
  }

  const Workplace& place_;
  const SftConfig& stage_;
  const Prompt& prompt_;
  const Framing& framing_;
  SftItem& item_;
  Episode episode_;
  const rl::EpisodeBounds bounds_;
};

absl::StatusOr<SftItem> MakeItem(const Workplace& place, const SftConfig& stage, int64_t index) {
  const uint64_t seed = MixSeed({place.run.seed, Meaning("sft"), Meaning(stage.name)});
  const Episode episode = EpisodeOf(place.plan, Split::kSft, seed, index);
  ASSIGN_OR_RETURN(const Prompt prompt,
                   AskTask(place, "env.reset", [&] { return place.peers.env.Reset(episode); }));
  ASSIGN_OR_RETURN(const Framing framing, Framing::Of(place, prompt));
  SftItem item{.id = absl::StrFormat("%s.%d", stage.name, index)};
  RETURN_IF_ERROR(Demonstration(place, stage, prompt, framing, item).Write());
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
