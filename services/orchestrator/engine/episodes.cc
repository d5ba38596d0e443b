#include "services/orchestrator/engine/episodes.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "common/rl/episode.h"
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

// One sample of an episode, from its first token to its last. Lives for one Play.
class Player {
 public:
  Player(const Workplace& place, const Prompt& prompt, const Framing& framing,
         const GenerateCall& call, int32_t sample)
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
  }

  absl::StatusOr<Played> Play() {
    ASSIGN_OR_RETURN(const SessionRef ref,
                     place_.patience.PersistWhile("inference.create_session", MayPassWithWeights,
                                                  [&] { return Create(); }));
    const OpenSession session(place_.peers.inference, ref);
    SessionStep step{
        .session = session.ref(), .expected_tokens = view_.tokens, .sampling = call_.sampling};
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
  absl::StatusOr<SessionRef> Create() {
    return place_.peers.inference.CreateSession({.request_id = name_,
                                                 .prompt = call_.prompt,
                                                 .context = call_.context,
                                                 .seed = SessionSeed(call_.sampling.seed, number_),
                                                 .min_version = call_.min_version,
                                                 .replica = call_.replica});
  }

  // The model's turn. False: the sample is lost, or there was no room for a token.
  absl::StatusOr<bool> Respond(SessionStep& step) {
    absl::StatusOr<Sample> answer =
        place_.patience.PersistWhile("inference.step_session", rl::MayStepLater,
                                     [&] { return place_.peers.inference.StepSession(step); });
    if (place_.patience.stopping()) return Patience::Stopped();
    if (!answer.ok()) {
      if (!rl::IsLost(answer.status())) return answer.status();
      return Lose(answer.status(), rl::Outcome::kInfraFailed);
    }
    if (!answer->status.ok()) return Lose(answer->status, answer->outcome);
    const auto said = step.expected_tokens + static_cast<int32_t>(step.new_ids.size());
    seconds_ += answer->rollout.seconds;
    played_.sample = *std::move(answer);
    step.expected_tokens = static_cast<int32_t>(played_.sample.rollout.tokens.size());
    view_.starved = step.expected_tokens == said;
    if (view_.starved) return false;
    played_.turns = ++view_.responses;
    return true;
  }

  // The environment's turn. False: the task has failed.
  absl::StatusOr<bool> Observe(SessionStep& step) {
    absl::StatusOr<EnvTurn> turn = AskTaskOnce(place_, "env.step", [&] {
      return place_.peers.env.Step(played_.episode, played_.sample.text);
    });
    if (TaskFailed(turn.status())) return Lose(turn.status(), OutcomeOf(turn.status()));
    RETURN_IF_ERROR(turn.status());
    played_.episode = std::move(turn->episode);
    view_.done = turn->done;
    if (turn->done) return true;
    ASSIGN_OR_RETURN(step.new_ids,
                     framing_.ObservationIds(turn->messages, played_.sample.rollout.tokens.back()));
    view_.tokens = step.expected_tokens + static_cast<int32_t>(step.new_ids.size());
    return true;
  }

  bool Lose(const absl::Status& why, rl::Outcome outcome) {
    played_.sample.status = why;
    played_.sample.outcome = outcome;
    return false;
  }

  // The text shows everything behind the prompt.
  absl::StatusOr<Played> Finish() {
    played_.sample.sample = number_;
    if (!played_.sample.status.ok()) return std::move(played_);
    rl::Rollout& rollout = played_.sample.rollout;
    rollout.seconds = seconds_;
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
};

}  // namespace

absl::StatusOr<std::vector<Played>> PlayEpisodes(const Workplace& place, const Prompt& prompt,
                                                 const Framing& framing, const GenerateCall& call) {
  std::vector<Played> played(static_cast<size_t>(call.n));
  const auto play = [&](int64_t i) -> absl::Status {
    Player player(place, prompt, framing, call, call.first_sample + static_cast<int32_t>(i));
    ASSIGN_OR_RETURN(played[static_cast<size_t>(i)], player.Play());
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
