#include "services/orchestrator/engine/episodes.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "common/rl/episode.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/task_calls.h"

namespace palimpsest::orchestrator {
namespace {

// Deletes its session at the end of its life, however that comes.
class OpenSession {
 public:
  OpenSession(InferenceClient& inference, SessionRef ref)
      : inference_(inference), ref_(std::move(ref)) {}
  ~OpenSession() { inference_.DeleteSession(ref_); }
  OpenSession(const OpenSession&) = delete;
  OpenSession& operator=(const OpenSession&) = delete;

  const SessionRef& ref() const { return ref_; }

 private:
  InferenceClient& inference_;
  const SessionRef ref_;
};

// One sample of an episode, from its first token, or where it was left, to its last. Lives for one
// Play.
class Player {
 public:
  Player(const Workplace& place, const Prompt& prompt, const Framing& framing,
         const GenerateCall& call, int32_t sample, const CutSample* left)
      : place_(place),
        framing_(framing),
        call_(call),
        name_(absl::StrFormat("%s.s%d", call.request_id, sample)),
        bounds_{.max_turns = prompt.max_turns,
                .max_response = *call.sampling.max_tokens,
                .max_position = place.model.max_position},
        view_{.tokens = static_cast<int32_t>(call.prompt.size())},
        number_(sample) {
    played_.episode = prompt.episode;
    played_.turns = 0;
    if (left != nullptr) StandAt(*left);
  }

  absl::StatusOr<Played> Play() {
    SessionStep step{.expected_tokens = view_.tokens, .sampling = call_.sampling};
    if (played_.continued) {
      ASSIGN_OR_RETURN(const bool went_on, Observe(step));
      if (!went_on || !rl::NextResponse(view_, bounds_)) return Finish();
    }
    const absl::StatusOr<SessionRef> ref = place_.patience.PersistWhile(
        "inference.create_session", MayPassWithWeights, [&] { return Create(); });
    if (!ref.ok() && place_.patience.stopping()) {
      CutOff(ref.status());
      return Finish();
    }
    RETURN_IF_ERROR(ref.status());
    const OpenSession session(place_.peers.inference, *ref);
    step.session = session.ref();
    for (auto room = rl::NextResponse(view_, bounds_); room;
         room = rl::NextResponse(view_, bounds_)) {
      step.request_id = absl::StrFormat("%s.t%d", name_, view_.responses);
      step.sampling.max_tokens = *room;
      ASSIGN_OR_RETURN(const bool answered, Respond(step));
      if (!answered) break;
      ASSIGN_OR_RETURN(const bool went_on, Observe(step));
      if (!went_on) break;
    }
    return Finish();
  }

 private:
  // As before the environment was told the last response.
  void StandAt(const CutSample& left) {
    whole_ = left;
    view_.tokens = static_cast<int32_t>(left.rollout.tokens.size());
    played_.turns = view_.responses = left.responses;
    played_.episode = left.episode;
    played_.sample.rollout = left.rollout;
    played_.sample.text = left.text;
    played_.continued = true;
    seconds_ = left.rollout.seconds;
  }

  absl::StatusOr<SessionRef> Create() {
    SessionCall call{.request_id = name_,
                     .prompt = call_.prompt,
                     .context = call_.context,
                     .seed = SessionSeed(call_.sampling.seed, number_),
                     .min_version = call_.min_version,
                     .replica = call_.replica};
    if (played_.continued) call.begun = whole_.rollout;
    return place_.peers.inference.CreateSession(call);
  }

  // The model's turn. False: the sample is lost, or there was no room for a token.
  absl::StatusOr<bool> Respond(SessionStep& step) {
    absl::StatusOr<Sample> answer =
        place_.patience.PersistWhile("inference.step_session", rl::MayStepLater,
                                     [&] { return place_.peers.inference.StepSession(step); });
    if (!answer.ok()) {
      const bool ends = rl::IsLost(answer.status()) || place_.patience.stopping();
      if (!ends) return answer.status();
      answer = Sample{.status = answer.status(), .outcome = rl::Outcome::kInfraFailed};
    }
    if (absl::IsInternal(answer->status)) return Lose(answer->status, answer->outcome);
    if (!answer->status.ok()) return CutOff(answer->status, answer->outcome);
    const auto said = step.expected_tokens + static_cast<int32_t>(step.new_ids.size());
    seconds_ += answer->rollout.seconds;
    played_.sample = *std::move(answer);
    played_.sample.rollout.seconds = seconds_;
    step.expected_tokens = static_cast<int32_t>(played_.sample.rollout.tokens.size());
    view_.starved = step.expected_tokens == said;
    if (view_.starved) return false;
    played_.turns = ++view_.responses;
    whole_ = {played_.sample.rollout, played_.sample.text, played_.episode, played_.turns};
    return true;
  }

  // The environment's turn. False: the task has failed.
  absl::StatusOr<bool> Observe(SessionStep& step) {
    absl::StatusOr<EnvTurn> turn = AskTaskOnce(place_, "env.step", [&] {
      return place_.peers.env.Step(played_.episode, played_.sample.text);
    });
    if (TaskFailed(turn.status())) return Lose(turn.status(), OutcomeOf(turn.status()));
    if (!turn.ok() && place_.patience.stopping()) return CutOff(turn.status());
    RETURN_IF_ERROR(turn.status());
    played_.episode = std::move(turn->episode);
    view_.done = turn->done;
    if (turn->done) return true;
    ASSIGN_OR_RETURN(step.new_ids,
                     framing_.ObservationIds(turn->messages, played_.sample.rollout.tokens.back()));
    view_.tokens = step.expected_tokens + static_cast<int32_t>(step.new_ids.size());
    return true;
  }

  // A failure: what it leaves is not trusted.
  bool Lose(const absl::Status& why, rl::Outcome outcome) {
    whole_ = {};
    return CutOff(why, outcome);
  }

  // Somebody's wish, or a session that went away: what was whole stays.
  bool CutOff(const absl::Status& why, rl::Outcome outcome = rl::Outcome::kCancelled) {
    played_.sample.status = why;
    played_.sample.outcome = outcome;
    return false;
  }

  // The text shows everything behind the prompt.
  absl::StatusOr<Played> Finish() {
    played_.sample.sample = number_;
    if (whole_.responses > 0) played_.left = std::move(whole_);
    if (!played_.sample.status.ok()) return std::move(played_);
    const rl::Rollout& rollout = played_.sample.rollout;
    ASSIGN_OR_RETURN(
        played_.sample.text,
        place_.tokenizer->Decode(
            std::span(rollout.tokens).subspan(static_cast<size_t>(rollout.prompt_tokens))));
    return std::move(played_);
  }

  const Workplace& place_;
  const Framing& framing_;
  const GenerateCall& call_;
  const std::string name_;
  const rl::EpisodeBounds bounds_;
  rl::EpisodeView view_;
  const int32_t number_;
  double seconds_ = 0;
  Played played_;
  CutSample whole_;  // through the last whole response; of none: no responses
};

absl::StatusOr<Played> PlayOne(const Workplace& place, const Prompt& prompt, const Framing& framing,
                               const GenerateCall& call, int32_t sample, const CutSamples& cut) {
  const auto left = cut.find(sample);
  if (left != cut.end()) {
    Log(Severity::kInfo, "an episode goes on from its log",
        {{"request", call.request_id}, {"sample", sample}, {"turns", left->second.responses}});
    absl::StatusOr<Played> played =
        Player(place, prompt, framing, call, sample, &left->second).Play();
    if (!absl::IsInvalidArgument(played.status())) return played;
    Log(Severity::kWarning, "it begins anew", {{"why", played.status().ToString()}});
  }
  return Player(place, prompt, framing, call, sample, nullptr).Play();
}

}  // namespace

absl::StatusOr<std::vector<Played>> PlayEpisodes(const Workplace& place, const Prompt& prompt,
                                                 const Framing& framing, const GenerateCall& call,
                                                 const CutSamples& cut) {
  std::vector<Played> played(static_cast<size_t>(call.n));
  const auto play = [&](int64_t i) -> absl::Status {
    const auto sample = call.first_sample + static_cast<int32_t>(i);
    ASSIGN_OR_RETURN(played[static_cast<size_t>(i)],
                     PlayOne(place, prompt, framing, call, sample, cut));
    return absl::OkStatus();
  };
  if (call.n == 1) {
    RETURN_IF_ERROR(play(0));
    return played;
  }
  WorkerPool players(call.n, place.threads);  // they wait for each other's steps at most
  RETURN_IF_ERROR(players.ForEach(call.n, play));
  return played;
}

}  // namespace palimpsest::orchestrator
