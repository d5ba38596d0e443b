#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tokenizer/chat_template.h"

namespace palimpsest {

// Makes tokens of what is said, wherever the tokenizer is: here, or behind a server.
class TurnEncoder {
 public:
  virtual ~TurnEncoder() = default;
  // Nothing added around it.
  virtual absl::StatusOr<std::vector<int32_t>> Text(const std::string& text) const = 0;
  // By the chat template. FAILED_PRECONDITION: there is none that is known.
  virtual absl::StatusOr<std::vector<int32_t>> Conversation(const Chat& chat) const = 0;
};

// How the texts of an episode become tokens. Each text is tokenised once and stands behind the
// tokens before it: what was said is never tokenised again.
//   An opening that is a text: plain. Opening, responses and observations (the contents of their
//     messages, one after the other) stand as they are; the environment writes what separates them,
//     and a stop string or the model's stop id ends a response.
//   An opening that is a conversation: the model's chat template. An observation closes the message
//     of the response, unless its stop id has done so, and opens the next one.
class TurnFraming {
 public:
  // One of both.
  struct Opening {
    std::string text;
    std::vector<ChatMessage> messages;
  };

  // `encoder` outlives it; stop_ids: the model's own. FAILED_PRECONDITION: a conversation, and the
  // encoder has no template, or one that closes no message by one of the stop ids.
  static absl::StatusOr<TurnFraming> Of(const TurnEncoder& encoder, Opening opening,
                                        std::vector<int32_t> stop_ids);

  // Not empty.
  absl::StatusOr<std::vector<int32_t>> PromptIds() const;
  // `last`: the token before, the last one of a response. Not empty: a turn without a token is
  // INVALID_ARGUMENT.
  absl::StatusOr<std::vector<int32_t>> ObservationIds(const std::vector<ChatMessage>& messages,
                                                      int32_t last) const;

  bool conversation() const { return !opening_.messages.empty(); }
  // The stop id that ends a response; of a conversation only.
  int32_t closing() const { return closing_; }

 private:
  TurnFraming(const TurnEncoder& encoder, Opening opening, std::vector<int32_t> stop_ids)
      : encoder_(&encoder), opening_(std::move(opening)), stop_ids_(std::move(stop_ids)) {}
  bool Stops(int32_t id) const;

  const TurnEncoder* encoder_;
  Opening opening_;
  std::vector<int32_t> stop_ids_;
  // How many stop ids there are up to the end of an answer to a first question, and the one that
  // closes it.
  int closes_ = 0;
  int32_t closing_ = 0;
};

}  // namespace palimpsest
