#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tools/eval/peers.h"

namespace palimpsest::tools::eval {

// Daemons of one thread: a token is a byte, the model says what the test scripts, the environment
// counts turns. All calls are kept.
class FakePeers final : public Peers {
 public:
  static std::vector<int32_t> Ids(const std::string& text) { return {text.begin(), text.end()}; }
  static std::string Text(const std::vector<int32_t>& ids) { return {ids.begin(), ids.end()}; }

  absl::StatusOr<Question> Reset(const AnswerKey&) override {
    ++resets;
    return question;
  }
  absl::StatusOr<Turn> Step(const std::string& episode, const std::string& response) override {
    stepped.push_back(response);
    Turn turn{.episode = episode + "|" + response,
              .done = stepped.size() == static_cast<size_t>(over_after)};
    if (!turn.done) turn.messages = {{"user", "o" + std::to_string(stepped.size()) + ";"}};
    return turn;
  }
  absl::StatusOr<Verdict> Score(const std::string& episode, const std::string& response,
                                bool cut) override {
    scored.push_back({episode, response, cut});
    return Verdict{.reward = 0.5, .reason = "half", .parts = {{"strict", 0.25}}};
  }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const Saying& saying) override {
    if (!saying.conversation()) return Ids(saying.text);
    std::string text;  // '.' closes a message
    for (const ChatMessage& m : saying.chat.messages) text += m.role + ":" + m.content + ".";
    return Ids(saying.chat.add_generation_prompt ? text + "assistant:" : text);
  }
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) override {
    return Text(ids);
  }

  absl::StatusOr<Written> Generate(const GenerateCall& call) override {
    generated.push_back(call);
    return Write(call.prompt, static_cast<int32_t>(call.prompt.size()), *call.sampling.max_tokens);
  }
  absl::StatusOr<std::string> CreateSession(const SessionCall& call) override {
    created.push_back(call);
    const std::string id = "s" + std::to_string(created.size());
    open[id] = call.prompt;
    return id;
  }
  absl::StatusOr<Written> StepSession(const SessionStep& step) override {
    steps.push_back(step);
    if (lost_at == static_cast<int>(steps.size())) return absl::UnavailableError("lost");
    std::vector<int32_t>& tokens = open.at(step.session);
    if (static_cast<size_t>(step.expected_tokens) != tokens.size()) {
      return absl::FailedPreconditionError("expected_tokens");
    }
    tokens.insert(tokens.end(), step.new_ids.begin(), step.new_ids.end());
    const auto prompt = static_cast<int32_t>(created.back().prompt.size());
    Written written = Write(tokens, prompt, *step.sampling.max_tokens);
    tokens = written.rollout.tokens;
    return written;
  }
  void DeleteSession(const std::string& session) override { open.erase(session); }

  struct Scored {
    std::string episode, response;
    bool cut = false;
    bool operator==(const Scored&) const = default;
  };

  Question question{.episode = "e", .saying = {.text = "question:"}, .max_response = 8};
  std::vector<std::string> says = {"yes$"};  // in turn, the last one again and again
  int over_after = 0;                        // steps after which the environment is done; 0: never
  int lost_at = 0;                           // the step of a session that fails, from 1; 0: none

  int resets = 0;
  std::vector<std::string> stepped;
  std::vector<Scored> scored;
  std::vector<GenerateCall> generated;
  std::vector<SessionCall> created;
  std::vector<SessionStep> steps;
  std::map<std::string, std::vector<int32_t>> open;  // sessions, with their tokens

 private:
  // What is said stops by its '$', or is cut.
  Written Write(std::vector<int32_t> tokens, int32_t prompt, int32_t room) {
    std::string text = says[std::min(said_++, says.size() - 1)];
    text = text.substr(0, static_cast<size_t>(room));
    const bool stopped = text.ends_with('$');
    for (const char c : text) tokens.push_back(c);
    if (stopped) text.pop_back();
    Written written{.text = text};
    written.rollout.tokens = std::move(tokens);
    written.rollout.prompt_tokens = prompt;
    written.rollout.finish_reason = stopped ? rl::FinishReason::kStop : rl::FinishReason::kLength;
    written.rollout.seconds = 0.25;
    return written;
  }

  size_t said_ = 0;
};

}  // namespace palimpsest::tools::eval
