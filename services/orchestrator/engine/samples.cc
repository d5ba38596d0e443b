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

constexpr size_t kLogBytes = 16 << 20;  // of the logs in one request; a message has 64 MiB

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

// One request for a run of samples of one turn.
absl::StatusOr<std::vector<Played>> AskFor(const Workplace& place, const Prompt& prompt,
                                           const GenerateCall& call) {
  ASSIGN_OR_RETURN(std::vector<Sample> samples,
                   place.patience.PersistWhile("inference.generate", MayPassWithWeights, [&] {
                     return place.peers.inference.Generate(call);
                   }));
  std::vector<Played> played;
  for (Sample& sample : samples) played.push_back({std::move(sample), prompt.episode});
  for (const rl::Rollout& begun : call.begun) {
    for (Played& p : played) p.continued |= p.sample.sample == begun.sample;
  }
  return played;
}

// Of one turn: what a failure leaves is not trusted, what somebody cut off is.
std::optional<CutSample> LeftOf(Sample& sample) {
  const bool cut = sample.outcome == rl::Outcome::kCancelled &&
                   std::ssize(sample.rollout.tokens) > sample.rollout.prompt_tokens;
  return cut ? std::optional(CutSample{.rollout = std::move(sample.rollout)}) : std::nullopt;
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
    std::erase_if(made_.cut, [&](const auto& cut) { return !Fits(cut.first, cut.second); });
    RETURN_IF_ERROR(JudgeEnded());
    for (int32_t i = 0; i < order_.max_tries;) {
      made_.failure.clear();
      got_on_ = false;
      RETURN_IF_ERROR(TryMissing());
      if (made_.failure.empty()) break;
      if (!got_on_) ++i;  // a try that was cut, but came further, is none that failed
    }
    return absl::OkStatus();
  }

 private:
  bool turns() const { return prompt_.max_turns > 0; }

  // Is it a sample of this order? The environment may have come to give another prompt.
  bool Fits(int32_t number, const CutSample& cut) const {
    const rl::Rollout& rollout = cut.rollout;
    const auto prompt = static_cast<int64_t>(call_.prompt.size());
    const uint64_t seed = turns() ? SessionSeed(call_.sampling.seed, number) : call_.sampling.seed;
    return turns() == (cut.responses > 0) && cut.responses <= prompt_.max_turns &&
           rollout.sample == (turns() ? 0 : number) && rollout.prompt_tokens == prompt &&
           std::equal(call_.prompt.begin(), call_.prompt.end(), rollout.tokens.begin()) &&
           rollout.seed == seed && rollout.greedy == (call_.sampling.temperature == 0) &&
           (rollout.greedy || rollout.temperature == call_.sampling.temperature);
  }

  // Those of an earlier order that lack their judgement alone.
  absl::Status JudgeEnded() {
    std::vector<int32_t> ended;
    for (const auto& [number, sample] : made_.cut) {
      if (sample.ended()) ended.push_back(number);
    }
    for (const int32_t number : ended) {
      CutSample sample = std::move(made_.cut.extract(number).mapped());
      Played played{
          {.sample = number, .rollout = std::move(sample.rollout), .text = std::move(sample.text)},
          prompt_.episode};
      RETURN_IF_ERROR(Take(std::move(played), order_.tries));
    }
    std::sort(have_.begin(), have_.end());
    return absl::OkStatus();
  }

  // One round over the missing samples.
  absl::Status TryMissing() {
    for (const SampleRun& run : RunsToAsk()) {
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

  // Each is a request, whose logs have to fit a message; those of episodes go one by one.
  std::vector<SampleRun> RunsToAsk() const {
    std::map<int32_t, size_t> bytes;
    for (const auto& [number, cut] : made_.cut) {
      if (!turns()) bytes[number] = place_.peers.codec.Encode(cut.rollout).size();
    }
    std::vector<SampleRun> runs;
    for (const SampleRun& run : MissingSamples(have_, order_.samples)) {
      for (const SampleRun& piece : InPieces(run, bytes, kLogBytes)) runs.push_back(piece);
    }
    return runs;
  }

  // A log that inference does not take, of another model say, is of no use: the sample begins anew.
  absl::StatusOr<std::vector<Played>> Ask() {
    if (turns()) return PlayEpisodes(place_, prompt_, framing_, call_, made_.cut);
    call_.begun.clear();
    for (int32_t number = call_.first_sample; number < call_.first_sample + call_.n; ++number) {
      const auto cut = made_.cut.find(number);
      if (cut != made_.cut.end()) call_.begun.push_back(cut->second.rollout);
    }
    if (call_.begun.empty()) return AskFor(place_, prompt_, call_);
    Log(Severity::kInfo, "samples go on from their logs",
        {{"request", call_.request_id}, {"samples", call_.begun.size()}});
    absl::StatusOr<std::vector<Played>> answers = AskFor(place_, prompt_, call_);
    if (!absl::IsInvalidArgument(answers.status())) return answers;
    Log(Severity::kWarning, "they begin anew", {{"why", answers.status().ToString()}});
    for (const rl::Rollout& begun : call_.begun) made_.cut.erase(begun.sample);
    call_.begun.clear();
    return AskFor(place_, prompt_, call_);
  }

  absl::Status Take(Played played, int32_t tries) {
    Sample& sample = played.sample;
    if (!sample.status.ok()) return TakeLost(played);
    // Turns were stepped: their responses stand in the episode.
    const absl::StatusOr<Verdict> verdict =
        Judge(place_, order_, played.episode, turns() ? "" : sample.text);
    if (!verdict.ok()) {
      if (!turns()) played.left = CutSample{std::move(sample.rollout), std::move(sample.text)};
      if (played.left) made_.cut[sample.sample] = *std::move(played.left);
      return verdict.status();
    }
    made_.cut.erase(sample.sample);
    if (verdict->outcome != rl::Outcome::kOk) {
      made_.failure = verdict->reason;
      return CountLoss(place_, verdict->outcome, verdict->reason);
    }
    have_.push_back(sample.sample);
    made_.continued += played.continued;
    made_.rollouts.push_back(RowOf(place_, order_, std::move(played), *verdict, tries));
    place_.metrics.rollouts.With({"ok"}).Add();
    return absl::OkStatus();
  }

  absl::Status TakeLost(Played& played) {
    Sample& sample = played.sample;
    const auto before = made_.cut.find(sample.sample);
    const size_t had = before == made_.cut.end() ? 0 : before->second.rollout.tokens.size();
    std::optional<CutSample> left = turns() ? std::move(played.left) : LeftOf(sample);
    made_.failure = sample.status.ToString();
    if (left) {
      got_on_ |= left->rollout.tokens.size() > had;
      made_.cut[sample.sample] = *std::move(left);
      return absl::OkStatus();
    }
    if (place_.patience.stopping()) return absl::OkStatus();
    if (before != made_.cut.end()) made_.cut.erase(before);
    return CountLoss(place_, sample.outcome, made_.failure);
  }

  const Workplace& place_;
  const SampleOrder& order_;
  const Prompt& prompt_;
  const Framing& framing_;
  GenerateCall call_;
  Made& made_;
  std::vector<int32_t> have_;
  bool got_on_ = false;  // in this round a sample that was cut came further than before
};

// Counts the samples of an order while it is worked at.
class InFlight {
 public:
  InFlight(std::atomic<int>& all, int samples) : all_(all), samples_(samples) { all_ += samples_; }
  ~InFlight() { all_ -= samples_; }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

 private:
  std::atomic<int>& all_;
  const int samples_;
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
  const InFlight counted(place.in_flight, order.samples);
  Made made{.cut = order.cut};
  const absl::Status status = Make(place, order, made);
  made.stopped = !status.ok() && place.patience.stopping();
  if (!made.stopped) RETURN_IF_ERROR(status);
  std::sort(made.rollouts.begin(), made.rollouts.end(),
            [](const RolloutRow& a, const RolloutRow& b) { return a.sample < b.sample; });
  return made;
}

}  // namespace palimpsest::orchestrator
