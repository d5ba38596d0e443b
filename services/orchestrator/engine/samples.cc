#include "services/orchestrator/engine/samples.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/episodes.h"
#include "services/orchestrator/engine/framing.h"
#include "services/orchestrator/engine/task_calls.h"

namespace palimpsest::orchestrator {
namespace {

std::string OutcomeName(rl::Outcome outcome) {
  switch (outcome) {
    case rl::Outcome::kOk:
      return "ok";
    case rl::Outcome::kTruncated:
      return "truncated";
    case rl::Outcome::kTaskFailed:
      return "task_failed";
    case rl::Outcome::kInfraFailed:
      return "infra_failed";
    case rl::Outcome::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

absl::Status CountLoss(const Workplace& place, rl::Outcome outcome, const std::string& why) {
  const std::string name = OutcomeName(outcome);
  Log(Severity::kWarning, "a rollout was lost", {{"outcome", name}, {"why", why}});
  place.metrics.rollouts.With({name}).Add();
  return place.ledger.Count(name, 1);
}

// `request_id` and the run of samples are all that changes from try to try.
GenerateCall CallFor(const SampleOrder& order, const Prompt& prompt, const Framing& framing,
                     std::vector<int32_t> ids) {
  GenerateCall call;
  call.prompt = std::move(ids);
  call.sampling.temperature = order.temperature;
  call.sampling.stop_strings = framing.stops();
  call.sampling.max_tokens = prompt.max_response > 0 ? prompt.max_response : order.max_tokens;
  call.sampling.seed = order.seed;
  call.context = order.context;
  call.min_version = order.min_version;
  call.replica = static_cast<size_t>(order.group);
  return call;
}

// A verdict; its outcome says why when the environment could not judge in max_tries.
absl::StatusOr<Verdict> Judge(const Workplace& place, const SampleOrder& order,
                              const Episode& episode, const std::string& text) {
  Verdict verdict;
  for (int32_t i = 0; i < order.max_tries; ++i) {
    absl::StatusOr<Verdict> answer =
        AskTaskOnce(place, "env.score", [&] { return place.peers.env.Score(episode, text); });
    if (TaskFailed(answer.status())) {
      verdict = {OutcomeOf(answer.status()), 0, answer.status().ToString(), {}};
      continue;
    }
    if (!answer.ok()) return answer.status();
    verdict = *std::move(answer);
    if (verdict.outcome == rl::Outcome::kOk) break;
  }
  return verdict;
}

RolloutRow RowOf(const Workplace& place, const SampleOrder& order, Played played,
                 const Verdict& verdict, int32_t tries) {
  Sample& sample = played.sample;
  rl::Rollout& rollout = sample.rollout;
  rollout.id = absl::StrFormat("%s.%d.%d", order.id, sample.sample, tries);
  RolloutRow row;
  row.id = rollout.id;
  row.group = order.group;
  row.sample = sample.sample;
  row.episode = std::move(played.episode);
  row.outcome = rl::Outcome::kOk;
  row.reward = verdict.reward;
  row.reason = verdict.reason;
  row.parts = verdict.parts;
  row.text = std::move(sample.text);
  row.prompt_tokens = rollout.prompt_tokens;
  row.total_tokens = static_cast<int32_t>(rollout.tokens.size());
  row.turns = played.turns;
  row.events = static_cast<int32_t>(rollout.events.size());
  for (const rl::Span& span : rollout.spans) {
    const int64_t version = span.version.value();
    row.min_version =
        &span == &rollout.spans.front() ? version : std::min(row.min_version, version);
    row.max_version = std::max(row.max_version, version);
  }
  row.bytes = place.peers.codec.Encode(rollout);
  return row;
}

// One request for a run of samples.
absl::StatusOr<std::vector<Played>> AskFor(const Workplace& place, const Prompt& prompt,
                                           const Framing& framing, const GenerateCall& call) {
  if (prompt.max_turns > 0) return PlayEpisodes(place, prompt, framing, call);
  ASSIGN_OR_RETURN(std::vector<Sample> samples,
                   place.patience.PersistWhile("inference.generate", MayPassWithWeights, [&] {
                     return place.peers.inference.Generate(call);
                   }));
  std::vector<Played> played;
  for (Sample& sample : samples) played.push_back({std::move(sample), prompt.episode});
  return played;
}

// One round over the missing samples. `have` grows by what was made.
absl::Status TryMissing(const Workplace& place, const SampleOrder& order, const Prompt& prompt,
                        const Framing& framing, GenerateCall& call, std::vector<int32_t>& have,
                        Made& made) {
  for (const SampleRun& run : MissingSamples(have, order.samples)) {
    const int32_t tries = order.tries + ++made.tries;
    call.request_id = absl::StrFormat("%s.%d.%d", order.id, run.first, tries);
    call.first_sample = run.first;
    call.n = run.n;
    ASSIGN_OR_RETURN(std::vector<Played> answers, AskFor(place, prompt, framing, call));
    for (Played& played : answers) {
      const Sample& sample = played.sample;
      if (!sample.status.ok()) {
        if (place.patience.stopping()) return Patience::Stopped();
        made.failure = sample.status.ToString();
        RETURN_IF_ERROR(CountLoss(place, sample.outcome, made.failure));
        continue;
      }
      // Turns were stepped: their responses stand in the episode.
      const std::string response = prompt.max_turns > 0 ? "" : sample.text;
      ASSIGN_OR_RETURN(const Verdict verdict, Judge(place, order, played.episode, response));
      if (verdict.outcome != rl::Outcome::kOk) {
        made.failure = verdict.reason;
        RETURN_IF_ERROR(CountLoss(place, verdict.outcome, verdict.reason));
        continue;
      }
      have.push_back(sample.sample);
      made.rollouts.push_back(RowOf(place, order, std::move(played), verdict, tries));
      place.metrics.rollouts.With({"ok"}).Add();
    }
  }
  std::sort(have.begin(), have.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Made> MakeSamples(const Workplace& place, const SampleOrder& order) {
  Made made;
  const absl::StatusOr<Prompt> answer =
      AskTask(place, "env.reset", [&] { return place.peers.env.Reset(order.episode); });
  if (TaskFailed(answer.status())) {
    made.failure = answer.status().ToString();
    RETURN_IF_ERROR(CountLoss(place, OutcomeOf(answer.status()), made.failure));
    return made;
  }
  RETURN_IF_ERROR(answer.status());
  const Prompt& prompt = *answer;
  ASSIGN_OR_RETURN(const Framing framing, Framing::Of(place, prompt));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, framing.PromptIds());
  GenerateCall call = CallFor(order, prompt, framing, std::move(ids));
  made.needs_memory =
      std::find(prompt.tags.begin(), prompt.tags.end(), kNeedsMemory) != prompt.tags.end();
  std::vector<int32_t> have = order.have;
  for (int32_t i = 0; i < order.max_tries; ++i) {
    made.failure.clear();
    RETURN_IF_ERROR(TryMissing(place, order, prompt, framing, call, have, made));
    if (made.failure.empty()) break;
  }
  std::sort(made.rollouts.begin(), made.rollouts.end(),
            [](const RolloutRow& a, const RolloutRow& b) { return a.sample < b.sample; });
  return made;
}

}  // namespace palimpsest::orchestrator
