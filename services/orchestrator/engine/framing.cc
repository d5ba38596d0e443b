#include "services/orchestrator/engine/framing.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace palimpsest::orchestrator {
namespace {

// A made-up exchange: what a template writes behind its answer, it writes behind any.
std::vector<Message> Exchange() { return {{"user", "x"}, {"assistant", "y"}}; }

}  // namespace

absl::StatusOr<Framing> Framing::Of(const Workplace& place, const Prompt& prompt) {
  Framing framing(place, prompt);
  if (!framing.conversation()) return framing;
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, framing.Render(Exchange(), false));
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

bool Framing::Stops(int32_t id) const {
  const std::vector<int32_t>& stops = place_.model.stop_ids;
  return std::find(stops.begin(), stops.end(), id) != stops.end();
}

absl::StatusOr<std::vector<int32_t>> Framing::Render(const std::vector<Message>& messages,
                                                     bool generation) const {
  const absl::StatusOr<ChatTemplate>& used = place_.chat->own();
  if (!used.ok()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("env.prompt is a conversation: %s", std::string(used.status().message())));
  }
  Chat chat{.messages = {}, .add_generation_prompt = generation};
  for (const Message& message : messages) chat.messages.push_back({message.role, message.content});
  return used->Encode(chat, *place_.tokenizer);
}

absl::StatusOr<std::vector<int32_t>> Framing::PromptIds() const {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, conversation()
                                                 ? Render(prompt_.messages, true)
                                                 : place_.tokenizer->Encode(prompt_.text));
  if (ids.empty()) return absl::InvalidArgumentError("env.prompt: it has no tokens");
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Framing::ObservationIds(const std::vector<Message>& messages,
                                                             int32_t last) const {
  if (!conversation()) {
    std::string text;
    for (const Message& message : messages) text += message.content;
    if (text.empty()) return absl::InvalidArgumentError("env.step: its turn has no text");
    return place_.tokenizer->Encode(text);
  }
  std::vector<Message> all = Exchange();
  all.insert(all.end(), messages.begin(), messages.end());
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, Render(all, true));
  int seen = 0;
  const auto closed = std::find_if(ids.begin(), ids.end(),
                                   [&](int32_t id) { return Stops(id) && ++seen == closes_; });
  if (closed == ids.end()) {
    return absl::InternalError("the chat template renders an exchange otherwise when it goes on");
  }
  ids.erase(ids.begin(), last == closing_ ? closed + 1 : closed);
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Framing::ResponseIds(const std::string& response) const {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, place_.tokenizer->Encode(response));
  if (conversation()) {
    ids.push_back(closing_);
  } else if (place_.plan.stop_strings.empty() && !place_.model.stop_ids.empty()) {
    ids.push_back(place_.model.stop_ids.front());
  }
  return ids;
}

}  // namespace palimpsest::orchestrator
