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
  const VersionRange versions = VersionsOf(rollout.spans);
  row.min_version = versions.min;
  row.max_version = versions.max;
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

// The samples of one order, on their way.
class Making {
 public:
  Making(const Workplace& place, const SampleOrder& order, const Prompt& prompt,
         const Framing& framing, GenerateCall call, Made& made)
      : place_(place),
        order_(order),
        prompt_(prompt),
        framing_(framing),
        call_(std::move(call)),
        made_(made),
        have_(order.have) {}

  absl::Status Run() {
    RETURN_IF_ERROR(JudgeEnded());
    for (int32_t i = 0; i < order_.max_tries; ++i) {
      made_.failure.clear();
      RETURN_IF_ERROR(TryMissing());
      if (made_.failure.empty()) break;
    }
    return absl::OkStatus();
  }

 private:
  // Those of an earlier order that lack their judgement alone.
  absl::Status JudgeEnded() {
    const CutSamples cut = made_.cut;
    for (const auto& [number, sample] : cut) {
      if (!sample.ended()) continue;
      Played played{{.sample = number, .rollout = sample.rollout, .text = sample.text},
                    prompt_.episode};
      RETURN_IF_ERROR(Take(std::move(played), order_.tries));
    }
    std::sort(have_.begin(), have_.end());
    return absl::OkStatus();
  }

  // One round over the missing samples.
  absl::Status TryMissing() {
    for (const SampleRun& run : MissingSamples(have_, order_.samples)) {
      const int32_t tries = order_.tries + ++made_.tries;
      call_.request_id = absl::StrFormat("%s.%d.%d", order_.id, run.first, tries);
      call_.first_sample = run.first;
      call_.n = run.n;
      ASSIGN_OR_RETURN(std::vector<Played> answers, Ask());
      absl::Status first;
      for (Played& played : answers) first.Update(Take(std::move(played), tries));
      RETURN_IF_ERROR(first);
      if (place_.patience.stopping()) return Patience::Stopped();
    }
    std::sort(have_.begin(), have_.end());
    return absl::OkStatus();
  }

  // A log that inference does not take, of another model say, is of no use: the sample begins anew.
  absl::StatusOr<std::vector<Played>> Ask() {
    call_.begun.clear();
    for (int32_t number = call_.first_sample; number < call_.first_sample + call_.n; ++number) {
      const auto cut = made_.cut.find(number);
      if (cut != made_.cut.end()) call_.begun.push_back(cut->second.rollout);
    }
    if (call_.begun.empty()) return AskFor(place_, prompt_, framing_, call_);
    Log(Severity::kInfo, "samples go on from their logs",
        {{"request", call_.request_id}, {"samples", call_.begun.size()}});
    absl::StatusOr<std::vector<Played>> answers = AskFor(place_, prompt_, framing_, call_);
    if (!absl::IsInvalidArgument(answers.status())) return answers;
    Log(Severity::kWarning, "they begin anew", {{"why", answers.status().ToString()}});
    for (const rl::Rollout& begun : call_.begun) made_.cut.erase(begun.sample);
    call_.begun.clear();
    return AskFor(place_, prompt_, framing_, call_);
  }

  absl::Status Take(Played played, int32_t tries) {
    Sample& sample = played.sample;
    if (!sample.status.ok()) return TakeLost(sample);
    // Turns were stepped: their responses stand in the episode.
    const bool turns = prompt_.max_turns > 0;
    const absl::StatusOr<Verdict> verdict =
        Judge(place_, order_, played.episode, turns ? "" : sample.text);
    if (!verdict.ok()) {
      if (!turns) made_.cut[sample.sample] = {std::move(sample.rollout), std::move(sample.text)};
      return verdict.status();
    }
    const bool continued = made_.cut.erase(sample.sample) > 0;
    if (verdict->outcome != rl::Outcome::kOk) {
      made_.failure = verdict->reason;
      return CountLoss(place_, verdict->outcome, verdict->reason);
    }
    have_.push_back(sample.sample);
    made_.rollouts.push_back(RowOf(place_, order_, std::move(played), *verdict, tries));
    place_.metrics.rollouts.With({"ok"}).Add();
    return continued ? place_.ledger.Count("continued", 1) : absl::OkStatus();
  }

  // What a failure leaves is not trusted, what somebody cut off is.
  absl::Status TakeLost(Sample& sample) {
    const bool cut = sample.outcome == rl::Outcome::kCancelled && !sample.rollout.tokens.empty();
    if (cut && prompt_.max_turns == 0) {
      made_.cut[sample.sample] = {std::move(sample.rollout), ""};
    } else if (!place_.patience.stopping()) {
      made_.cut.erase(sample.sample);
    }
    if (place_.patience.stopping()) return absl::OkStatus();
    made_.failure = sample.status.ToString();
    return CountLoss(place_, sample.outcome, made_.failure);
  }

  const Workplace& place_;
  const SampleOrder& order_;
  const Prompt& prompt_;
  const Framing& framing_;
  GenerateCall call_;
  Made& made_;
  std::vector<int32_t> have_;
};

absl::Status Make(const Workplace& place, const SampleOrder& order, Made& made) {
  const absl::StatusOr<Prompt> answer =
      AskTask(place, "env.reset", [&] { return place.peers.env.Reset(order.episode); });
  if (TaskFailed(answer.status())) {
    made.failure = answer.status().ToString();
    return CountLoss(place, OutcomeOf(answer.status()), made.failure);
  }
  RETURN_IF_ERROR(answer.status());
  const Prompt& prompt = *answer;
  ASSIGN_OR_RETURN(const Framing framing, Framing::Of(place, prompt));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, framing.PromptIds());
  made.needs_memory =
      std::find(prompt.tags.begin(), prompt.tags.end(), kNeedsMemory) != prompt.tags.end();
  return Making(place, order, prompt, framing, CallFor(order, prompt, framing, std::move(ids)),
                made)
      .Run();
}

}  // namespace

absl::StatusOr<Made> MakeSamples(const Workplace& place, const SampleOrder& order) {
  Made made{.cut = order.cut};
  const absl::Status status = Make(place, order, made);
  made.stopped = !status.ok() && place.patience.stopping();
  if (!made.stopped) RETURN_IF_ERROR(status);
  std::sort(made.rollouts.begin(), made.rollouts.end(),
            [](const RolloutRow& a, const RolloutRow& b) { return a.sample < b.sample; });
  return made;
}

}  // namespace palimpsest::orchestrator
