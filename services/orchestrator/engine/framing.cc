#include "services/orchestrator/engine/framing.h"

#include "absl/strings/str_format.h"
#include "services/orchestrator/core/decisions.h"

namespace palimpsest::orchestrator {
namespace {

class ModelEncoder final : public TurnEncoder {
 public:
  explicit ModelEncoder(const Workplace& place) : place_(place) {}

  absl::StatusOr<std::vector<int32_t>> Text(const std::string& text) const override {
    return place_.tokenizer->Encode(text);
  }
  absl::StatusOr<std::vector<int32_t>> Conversation(const Chat& chat) const override {
    const absl::StatusOr<ChatTemplate>& used = place_.chat->own();
    if (used.ok()) return used->Encode(chat, *place_.tokenizer);
    return absl::FailedPreconditionError(
        absl::StrFormat("env.prompt is a conversation: %s", std::string(used.status().message())));
  }

 private:
  const Workplace& place_;
};

std::vector<ChatMessage> ToChat(const std::vector<Message>& messages) {
  std::vector<ChatMessage> chat;
  for (const Message& message : messages) chat.push_back({message.role, message.content});
  return chat;
}

}  // namespace

absl::StatusOr<Framing> Framing::Of(const Workplace& place, const Prompt& prompt) {
  auto encoder = std::make_unique<ModelEncoder>(place);
  ASSIGN_OR_RETURN(
      TurnFraming turns,
      TurnFraming::Of(*encoder, {.text = prompt.text, .messages = ToChat(prompt.messages)},
                      place.model.stop_ids));
  return Framing(place, StopsOf(place.plan.stop_strings, prompt.stops), std::move(encoder),
                 std::move(turns));
}

absl::StatusOr<std::vector<int32_t>> Framing::ObservationIds(const std::vector<Message>& messages,
                                                             int32_t last) const {
  return turns_.ObservationIds(ToChat(messages), last);
}

absl::StatusOr<std::vector<int32_t>> Framing::ResponseIds(const std::string& response) const {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, place_.tokenizer->Encode(response));
  if (turns_.conversation()) {
    ids.push_back(turns_.closing());
  } else if (stops_.empty() && !place_.model.stop_ids.empty()) {
    ids.push_back(place_.model.stop_ids.front());
  }
  return ids;
}

}  // namespace palimpsest::orchestrator
