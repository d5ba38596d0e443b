#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/rl/rollout.h"
#include "common/rl/sampling.h"
#include "common/tokenizer/chat_template.h"
#include "tools/eval/plan.h"
#include "tools/eval/policy.h"

// The two daemons as an evaluation sees them, in values.
namespace palimpsest::tools::eval {

// What the model is to read: a text, or a conversation under the model's chat template or one that
// the environment brings.
struct Saying {
  std::string text;  // where there is no conversation
  Chat chat = {};
  std::string chat_template = {};  // empty: the model's own
  bool conversation() const { return !chat.messages.empty(); }
};

// A prompt of an environment. `episode` is its own and goes back as it came.
struct Question {
  std::string episode;
  Saying saying;
  std::vector<std::string> tags;
  std::vector<std::string> stops;  // strings that end a response
  int32_t max_response = 0;        // tokens of one response; 0: it does not say
  int32_t max_turns = 0;           // responses that the episode takes at most; 0: it is not stepped
};

// The environment's answer to a response, in an episode of several turns.
struct Turn {
  std::string episode;                // with what happened
  std::vector<ChatMessage> messages;  // none when done
  bool done = false;
};

struct Verdict {
  double reward = 0;  // finite
  std::string reason;
  std::map<std::string, double> parts = {};  // of the reward, by name; finite
};

// What every call that makes tokens says. Parts of an id have no '/': tasks may.
struct GenerateCall {
  std::string request_id;
  std::vector<int32_t> prompt;
  int32_t sample = 0;  // keys the draws beside sampling.seed
  rl::SamplingParams sampling;
  context::ContextPolicy context;
  std::optional<rl::BudgetMessages> messages;
};
struct SessionCall {
  std::string request_id;
  std::vector<int32_t> prompt;
  context::ContextPolicy context;
  uint64_t seed = 0;  // of all its draws
};
struct SessionStep {
  std::string request_id;
  std::string session;
  int32_t expected_tokens = 0;   // of the session before the step
  std::vector<int32_t> new_ids;  // injected at its end
  rl::SamplingParams sampling;   // but for the seed
  std::optional<rl::BudgetMessages> messages;
};

// The whole sequence, and the text that this call has sampled, cut at a stop string.
struct Written {
  rl::Rollout rollout;
  std::string text;
};

// Each call is one attempt with a deadline; any thread may make it. A status that IsRefusal
// (asker.h) would come back whenever this is asked: whatever is lost on the way, a session too, is
// another one.
class Peers {
 public:
  virtual ~Peers() = default;

  virtual absl::StatusOr<Question> Reset(const AnswerKey& key) = 0;
  virtual absl::StatusOr<Turn> Step(const std::string& episode, const std::string& response) = 0;
  // `cut`: the response, or the episode, did not come to its own end.
  virtual absl::StatusOr<Verdict> Score(const std::string& episode, const std::string& response,
                                        bool cut) = 0;

  virtual absl::StatusOr<std::vector<int32_t>> Tokenize(const Saying& saying) = 0;
  virtual absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) = 0;
  // Tokens of one version of the weights only; FAILED_PRECONDITION when that has changed.
  virtual absl::StatusOr<Written> Generate(const GenerateCall& call) = 0;
  virtual absl::StatusOr<std::string> CreateSession(const SessionCall& call) = 0;  // its id
  virtual absl::StatusOr<Written> StepSession(const SessionStep& step) = 0;
  // As far as it can be reached; what is left goes when it has been idle for long enough.
  virtual void DeleteSession(const std::string& session) = 0;
};

}  // namespace palimpsest::tools::eval
