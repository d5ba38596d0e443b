#include "services/inference/server/request.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/field.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"

namespace palimpsest::inference {
namespace {

constexpr size_t kMaxName = 128;  // bytes of an id or a client's name

absl::Status NotServed(std::string_view field) {
  return absl::UnimplementedError(absl::StrFormat("%s: not served by this server", field));
}

absl::Status NoTokenizer(std::string_view field) {
  return absl::FailedPreconditionError(
      absl::StrFormat("%s: the model has no tokenizer, only ids are understood", field));
}

// Before it is encoded, which takes a while: a text that cannot fit. Composition (NFC) makes no
// text shorter than a third.
absl::Status CheckLength(std::string_view path, size_t bytes, const ModelInfo& model,
                         const Tokenizer& tokenizer) {
  constexpr size_t kComposed = 4;
  const size_t positions = static_cast<size_t>(model.max_position);
  if (bytes / kComposed / std::max<size_t>(1, tokenizer.longest_token()) <= positions)
    return absl::OkStatus();
  return wire::Refused(path, absl::StrFormat("has %d bytes: more than %d tokens can say", bytes,
                                             model.max_position));
}

size_t Bytes(const v1::ChatPrompt& chat) {
  size_t bytes = 0;
  for (const v1::ChatMessage& message : chat.messages())
    bytes += message.content().size() + message.reasoning_content().size();
  return bytes;
}

absl::StatusOr<std::vector<int32_t>> Prompt(const v1::GenerateRequest& proto,
                                            const ModelInfo& model, const Tokenizer* tokenizer,
                                            const FolderChat* chat) {
  const int32_t vocab = model.vocab;
  std::vector<int32_t> prompt;
  switch (proto.prompt_case()) {
    case v1::GenerateRequest::kPromptIds:
      prompt.assign(proto.prompt_ids().ids().begin(), proto.prompt_ids().ids().end());
      if (prompt.empty()) return wire::Refused("prompt_ids.ids", "is empty");
      RETURN_IF_ERROR(CheckIds("prompt_ids.ids", prompt, vocab));
      return prompt;
    case v1::GenerateRequest::kPromptText: {
      if (tokenizer == nullptr) return NoTokenizer("prompt_text");
      RETURN_IF_ERROR(CheckLength("prompt_text", proto.prompt_text().size(), model, *tokenizer));
      auto encoded = tokenizer->Encode(proto.prompt_text());
      if (!encoded.ok()) return wire::About("prompt_text", encoded.status());
      if (encoded->empty()) return wire::Refused("prompt_text", "is empty");
      RETURN_IF_ERROR(CheckIds("prompt_text", *encoded, vocab));
      return *std::move(encoded);
    }
    case v1::GenerateRequest::kPromptChat: {
      if (tokenizer == nullptr) return NoTokenizer("prompt_chat");
      RETURN_IF_ERROR(CheckLength("prompt_chat", Bytes(proto.prompt_chat()), model, *tokenizer));
      ASSIGN_OR_RETURN(prompt, EncodeChat("prompt_chat", proto.prompt_chat(), tokenizer, chat));
      RETURN_IF_ERROR(CheckIds("prompt_chat", prompt, vocab));
      return prompt;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return wire::Refused("prompt", "none of prompt_ids, prompt_text, prompt_chat is set");
}

Chat FromProto(const v1::ChatPrompt& proto) {
  Chat chat{
      .add_generation_prompt = !proto.has_add_generation_prompt() || proto.add_generation_prompt(),
      .date_string = proto.date_string()};
  if (proto.has_enable_thinking()) chat.enable_thinking = proto.enable_thinking();
  for (const v1::ChatMessage& message : proto.messages()) {
    chat.messages.push_back({message.role(), message.content()});
    if (message.has_reasoning_content()) {
      chat.messages.back().reasoning_content = message.reasoning_content();
    }
  }
  return chat;
}

// Turns and manual events belong to sessions: one request is one step.
absl::StatusOr<context::ContextPolicy> Context(const v1::ContextPolicy& proto, int32_t prompt) {
  if (proto.has_turns()) return NotServed("context.turns");
  if (proto.has_manual()) return NotServed("context.manual");
  ASSIGN_OR_RETURN(const context::ContextPolicy policy, wire::FromProto(proto, "context"));
  RETURN_IF_ERROR(wire::Under("context", context::Validate(policy, prompt)));
  return policy;
}

absl::Status CheckCounts(const v1::GenerateRequest& proto, const Limits& limits) {
  if (proto.n() < 0 || proto.n() > limits.max_samples) {
    return wire::Refused("n", absl::StrFormat("%d is outside of [0, max_samples=%d]", proto.n(),
                                              limits.max_samples));
  }
  if (proto.first_sample() < 0 ||
      proto.first_sample() > std::numeric_limits<int32_t>::max() - limits.max_samples) {
    return wire::Refused("first_sample", absl::StrFormat("%d is outside of [0, 2^31 - 1 - %d]",
                                                         proto.first_sample(), limits.max_samples));
  }
  return CheckClient(proto.client());
}

}  // namespace

absl::Status CheckRequestId(const std::string& id) {
  if (!id.empty() && id.size() <= kMaxName) return absl::OkStatus();
  return wire::Refused("request_id",
                       absl::StrFormat("%d bytes, must be 1 to %d", id.size(), kMaxName));
}

absl::Status CheckClient(const std::string& client) {
  if (client.size() <= kMaxName) return absl::OkStatus();
  return wire::Refused("client", absl::StrFormat("%d bytes, at most %d", client.size(), kMaxName));
}

absl::Status CheckIds(std::string_view path, std::span<const int32_t> ids, int32_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return wire::Refused(wire::Item(path, static_cast<int>(i)),
                         absl::StrFormat("%d is outside of the vocabulary [0, %d)", ids[i], vocab));
  }
  return absl::OkStatus();
}

absl::StatusOr<rl::SamplingParams> ParseSampling(const v1::SamplingParams& proto,
                                                 const Tokenizer* tokenizer) {
  if (proto.stop_strings_size() > 0 && tokenizer == nullptr) {
    return NoTokenizer("sampling.stop_strings");
  }
  return wire::FromProto(proto, "sampling");
}

absl::StatusOr<rl::BudgetMessages> ParseBudgetMessages(const v1::BudgetMessages& proto,
                                                       const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) return NoTokenizer("budget_messages");
  return wire::FromProto(proto);
}

absl::Status CheckMinVersion(const std::optional<int64_t>& asked, PolicyVersion live) {
  if (!asked.has_value() || *asked <= live.value()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "min_policy_version=%d: the live weights are of version %d", *asked, live.value()));
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(std::string_view path, const v1::ChatPrompt& proto,
                                                const Tokenizer* tokenizer,
                                                const FolderChat* chat) {
  if (tokenizer == nullptr) return NoTokenizer(path);
  const bool brought = !proto.template_().empty();
  const absl::StatusOr<ChatTemplate> used = brought ? chat->Given(proto.template_()) : chat->own();
  if (!used.ok()) {
    return wire::About(brought ? wire::Field(path, "template") : std::string(path), used.status());
  }
  absl::StatusOr<std::vector<int32_t>> ids = used->Encode(FromProto(proto), *tokenizer);
  // What the conversation asks is refused by field; the rest is about the model.
  if (absl::IsInvalidArgument(ids.status())) return wire::Under(path, ids.status());
  if (!ids.ok()) return wire::About(path, ids.status());
  return ids;
}

absl::StatusOr<GenerationRequest> ParseGenerate(const v1::GenerateRequest& proto,
                                                const Engine& engine, const Tokenizer* tokenizer,
                                                const FolderChat* chat, absl::Time deadline) {
  RETURN_IF_ERROR(CheckCounts(proto, engine.limits()));
  RETURN_IF_ERROR(CheckMinVersion(
      proto.has_min_policy_version() ? std::optional(proto.min_policy_version()) : std::nullopt,
      engine.version()));
  GenerationRequest request{.request_id = proto.request_id(),
                            .client = proto.client(),
                            .n = proto.n() == 0 ? 1 : proto.n(),
                            .first_sample = proto.first_sample(),
                            .priority = proto.priority(),
                            .deadline = deadline};
  ASSIGN_OR_RETURN(request.prompt, Prompt(proto, engine.model(), tokenizer, chat));
  ASSIGN_OR_RETURN(request.sampling, ParseSampling(proto.sampling(), tokenizer));
  if (proto.has_context()) {
    ASSIGN_OR_RETURN(request.context,
                     Context(proto.context(), static_cast<int32_t>(request.prompt.size())));
  }
  if (proto.has_budget_messages()) {
    ASSIGN_OR_RETURN(request.budget_messages,
                     ParseBudgetMessages(proto.budget_messages(), tokenizer));
  }
  for (int i = 0; i < proto.begun_size(); ++i) {
    ASSIGN_OR_RETURN(request.begun.emplace_back(),
                     wire::FromProto(proto.begun(i), wire::Item("begun", i)));
  }
  return request;
}

absl::StatusOr<ScoreRequest> ParseScore(const v1::ScoreRequest& proto, const Engine& engine) {
  RETURN_IF_ERROR(CheckMinVersion(
      proto.has_min_policy_version() ? std::optional(proto.min_policy_version()) : std::nullopt,
      engine.version()));
  ScoreRequest request;
  request.tokens.assign(proto.ids().begin(), proto.ids().end());
  if (request.tokens.size() < 2) {
    return wire::Refused("ids", absl::StrFormat("%d ids, at least 2", request.tokens.size()));
  }
  RETURN_IF_ERROR(CheckIds("ids", request.tokens, engine.model().vocab));
  ASSIGN_OR_RETURN(request.events, wire::EventsFromProto(proto.events()));
  if (proto.has_temperature()) request.temperature = proto.temperature();
  if (proto.has_top_logprobs()) {
    request.top = proto.top_logprobs();
    if (*request.top < 0 || *request.top > rl::kMaxAlternatives) {
      return wire::Refused("top_logprobs", absl::StrFormat("%d is outside of [0, %d]", *request.top,
                                                           rl::kMaxAlternatives));
    }
  }
  if (request.temperature == 0) return wire::Refused("temperature", "0 is not > 0");
  RETURN_IF_ERROR(rl::Validate({.temperature = request.temperature}));
  return request;
}

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace palimpsest::inference
