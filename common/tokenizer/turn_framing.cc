#include "common/tokenizer/turn_framing.h"

#include <algorithm>

#include "common/base/status.h"

namespace palimpsest {
namespace {

// A made-up exchange: what a template writes behind its answer, it writes behind any.
std::vector<ChatMessage> Exchange() { return {{"user", "x"}, {"assistant", "y"}}; }

}  // namespace

absl::StatusOr<TurnFraming> TurnFraming::Of(const TurnEncoder& encoder, Opening opening,
                                            std::vector<int32_t> stop_ids) {
  TurnFraming framing(encoder, std::move(opening), std::move(stop_ids));
  if (!framing.conversation()) return framing;
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   encoder.Conversation({.messages = Exchange(), .add_generation_prompt = false}));
  for (const int32_t id : ids) {
    if (!framing.Stops(id)) continue;
    ++framing.closes_;
    framing.closing_ = id;
  }
  if (framing.closes_ > 0) return framing;
  return absl::FailedPreconditionError(
      "env.prompt is a conversation, but the model's chat template closes no message by one of its "
      "stop ids");
}

bool TurnFraming::Stops(int32_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

absl::StatusOr<std::vector<int32_t>> TurnFraming::PromptIds() const {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                   conversation() ? encoder_->Conversation({.messages = opening_.messages})
                                  : encoder_->Text(opening_.text));
  if (ids.empty()) return absl::InvalidArgumentError("env.prompt: it has no tokens");
  return ids;
}

absl::StatusOr<std::vector<int32_t>> TurnFraming::ObservationIds(
    const std::vector<ChatMessage>& messages, int32_t last) const {
  if (!conversation()) {
    std::string text;
    for (const ChatMessage& message : messages) text += message.content;
    if (text.empty()) return absl::InvalidArgumentError("env.step: its turn has no text");
    return encoder_->Text(text);
  }
  std::vector<ChatMessage> all = Exchange();
  all.insert(all.end(), messages.begin(), messages.end());
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, encoder_->Conversation({.messages = std::move(all)}));
  int seen = 0;
  const auto closed = std::find_if(ids.begin(), ids.end(),
                                   [&](int32_t id) { return Stops(id) && ++seen == closes_; });
  if (closed == ids.end()) {
    return absl::InternalError("the chat template renders an exchange otherwise when it goes on");
  }
  ids.erase(ids.begin(), last == closing_ ? closed + 1 : closed);
  return ids;
}

}  // namespace palimpsest
