#include "tests/simulation/env.h"

#include <algorithm>

namespace palimpsest::simulation {
namespace {

using orchestrator::EnvTurn;
using orchestrator::Episode;
using orchestrator::Prompt;
using orchestrator::Split;
using orchestrator::Verdict;

constexpr absl::Duration kCall = absl::Seconds(10);

std::string Call(const char* what, const Episode& episode) {
  return absl::StrFormat("env.%s %s", what, PromptText(episode));
}

}  // namespace

void SimEnv::Die() {
  ++life_;
  up_ = false;
  scheduler_.Spawn([this, life = life_, away = 20 * random_.Uniform()] {
    scheduler_.SleepFor(absl::Seconds(away));
    if (life == life_) up_ = true;
  });
}

absl::Status SimEnv::Work() {
  const int life = life_;
  if (up_) scheduler_.SleepFor(absl::Milliseconds(50 * random_.Uniform()));
  return up_ && life == life_ ? absl::OkStatus() : absl::UnavailableError("env is away");
}

absl::StatusOr<std::vector<std::string>> SimEnv::Tasks() {
  using Names = std::vector<std::string>;
  return network_.Call<Names>("env.tasks", kCall, [this]() -> absl::StatusOr<Names> {
    RETURN_IF_ERROR(Work());
    return scenario_.plan.tasks;
  });
}

absl::StatusOr<Prompt> SimEnv::Reset(const Episode& episode) {
  return network_.Call<Prompt>(Call("reset", episode), kCall,
                               [this, episode]() -> absl::StatusOr<Prompt> {
                                 RETURN_IF_ERROR(Work());
                                 Prompt prompt{.episode = episode, .text = PromptText(episode)};
                                 if (episode.index % 2 == 0)
                                   prompt.tags = {orchestrator::kNeedsMemory};
                                 if (episode.task == kTalk) prompt.max_turns = kTurns;
                                 return prompt;
                               });
}

absl::StatusOr<EnvTurn> SimEnv::Step(const Episode& episode, const std::string& response) {
  return network_.Call<EnvTurn>(
      Call("step", episode), kCall, [this, episode, response]() -> absl::StatusOr<EnvTurn> {
        RETURN_IF_ERROR(Work());
        if (episode.split == Split::kTrain && raised_ > 0) {
          --raised_;
          return absl::InternalError("the task raised");
        }
        EnvTurn turn{.episode = episode};
        turn.episode.state += response + ";";
        const auto said = std::count(turn.episode.state.begin(), turn.episode.state.end(), ';');
        turn.done = said == kTurns;
        if (!turn.done) turn.messages = {orchestrator::Message{"user", kObservation}};
        return turn;
      });
}

absl::StatusOr<Verdict> SimEnv::Judge(const Episode& episode, const std::string& response) {
  RETURN_IF_ERROR(Work());
  if (unjudged_ > 0) {
    --unjudged_;
    const bool lie = scenario_.plant == Plant::kFailureScored;
    return Verdict{lie ? rl::Outcome::kOk : rl::Outcome::kTaskFailed, 0, "no judge", {}};
  }
  if (raised_ > 0) {
    --raised_;
    return absl::InternalError("the task raised");
  }
  std::string last = response;
  if (episode.task == kTalk) {
    last = episode.state.substr(0, episode.state.size() - 1);
    last = last.substr(last.rfind(';') + 1);
  }
  return Verdict{rl::Outcome::kOk,
                 Truth(episode.task, static_cast<int>(episode.split), episode.index, last),
                 "as it deserves",
                 {}};
}

absl::StatusOr<Verdict> SimEnv::Score(const Episode& episode, const std::string& response) {
  return network_.Call<Verdict>(Call("score", episode), kCall,
                                [this, episode, response] { return Judge(episode, response); });
}

absl::StatusOr<std::string> SimEnv::Demonstrate(const Episode& episode, double) {
  return network_.Call<std::string>(Call("demonstrate", episode), kCall,
                                    [this, episode]() -> absl::StatusOr<std::string> {
                                      RETURN_IF_ERROR(Work());
                                      return absl::StrFormat("demo of %d$", episode.index);
                                    });
}

}  // namespace palimpsest::simulation
