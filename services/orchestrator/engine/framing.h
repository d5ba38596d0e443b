#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// How the texts of an episode become tokens. Each text is tokenised once and stands behind the
// tokens before it: what was said is never tokenised again.
//   A prompt that is a text: plain. Prompt, responses and observations (the contents of their
//     messages, one after the other) stand as they are; the environment writes what separates them,
//     and a stop string or the model's stop id ends a response.
//   A prompt that is a conversation: the model's chat template. An observation closes the message
//     of the response, unless its stop id has done so, and opens the next one.
class Framing {
 public:
  // `place` and `prompt` outlive it. FAILED_PRECONDITION: a conversation, and a model without a
  // template that is known, or one that closes no message by a stop id of the model.
  static absl::StatusOr<Framing> Of(const Workplace& place, const Prompt& prompt);

  // Not empty.
  absl::StatusOr<std::vector<int32_t>> PromptIds() const;
  // `last`: the token before, the last one of a response. Not empty: a turn without a token is
  // INVALID_ARGUMENT.
  absl::StatusOr<std::vector<int32_t>> ObservationIds(const std::vector<Message>& messages,
                                                      int32_t last) const;
  // Of a response that is not sampled: its end included.
  absl::StatusOr<std::vector<int32_t>> ResponseIds(const std::string& response) const;

 private:
  Framing(const Workplace& place, const Prompt& prompt) : place_(place), prompt_(prompt) {}
  bool conversation() const { return !prompt_.messages.empty(); }
  bool Stops(int32_t id) const;
  absl::StatusOr<std::vector<int32_t>> Render(const std::vector<Message>& messages,
                                              bool generation) const;

  const Workplace& place_;
  const Prompt& prompt_;
  // Of a conversation: how many stop ids there are up to the end of an answer to a first question,
  // and the one that closes it.
  int closes_ = 0;
  int32_t closing_ = 0;
};

}  // namespace palimpsest::orchestrator
