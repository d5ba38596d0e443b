#include "services/inference/core/admission.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "services/inference/core/begun.h"
#include "services/inference/core/page_pool.h"

namespace palimpsest::inference {
namespace {

int32_t MaxTokens(const GenerationRequest& request, int32_t max_position) {
  const int32_t room = max_position - static_cast<int32_t>(request.prompt.size());
  return std::min(room, request.sampling.max_tokens.value_or(room));
}

bool Records(const context::ContextPolicy& policy) {
  return !std::holds_alternative<context::NoTrigger>(policy.trigger) &&
         context::UsesReference(policy.method, policy.parameters.chooser);
}

// Positions that the sequence can come to. Messages may take it to the model's last one.
int32_t LongestOf(const GenerationRequest& request, int32_t max_position) {
  if (request.budget_messages) return max_position;
  return static_cast<int32_t>(request.prompt.size()) + MaxTokens(request, max_position);
}

}  // namespace

int32_t RecordedPositions(const GenerationRequest& request, int32_t max_position) {
  if (!Records(request.context)) return 0;
  // What a session records has to do for its later steps, too.
  const int32_t longest = request.step ? max_position : LongestOf(request, max_position);
  return std::min(request.context.reference_tokens, longest);
}

bool CarriesImportance(const GenerationRequest& request) {
  const context::ContextPolicy& policy = request.context;
  return !std::holds_alternative<context::NoTrigger>(policy.trigger) &&
         context::Carries(policy.method, policy.parameters.chooser);
}

int64_t SlotsNeeded(const GenerationRequest& request, int32_t max_position) {
  const int64_t full = LongestOf(request, max_position);
  if (const auto* kv = std::get_if<context::KvBudget>(&request.context.trigger))
    return std::min<int64_t>(full, kv->budget);
  return full;
}

int64_t TokensAsked(const GenerationRequest& request, int32_t max_position) {
  return std::ssize(request.prompt) + int64_t{request.n} * MaxTokens(request, max_position);
}

CacheCost CostOf(const ModelInfo& m) {
  const int64_t bytes = m.dtype == "bfloat16" ? 2 : 4;
  return {.page_bytes = kPageSlots * int64_t{m.layers} * m.kv_heads * (2 * m.head_dim * bytes + 4),
          .query_bytes = int64_t{m.layers} * m.heads * m.head_dim * bytes,
          .key_bytes = int64_t{m.layers} * m.kv_heads * m.head_dim * bytes,
          .carried_bytes = int64_t{m.layers} * m.kv_heads * kCarriedSlotBytes};
}

int64_t QueryBytes(const GenerationRequest& request, const ModelInfo& model) {
  const CacheCost cost = CostOf(model);
  const bool keys = request.context.parameters.reference_kind == context::ReferenceKind::kKeys;
  return int64_t{RecordedPositions(request, model.max_position)} *
         (cost.query_bytes + (keys ? cost.key_bytes : 0));
}

int64_t RebuildBytes(const GenerationRequest& request, int32_t tokens, const ModelInfo& model) {
  const int64_t slots = std::min<int64_t>(tokens, SlotsNeeded(request, model.max_position));
  const CacheCost cost = CostOf(model);
  const int64_t carried = CarriesImportance(request) ? slots * cost.carried_bytes : 0;
  return PagesFor(slots) * cost.page_bytes + QueryBytes(request, model) + carried;
}

int64_t BytesNeeded(const GenerationRequest& request, const ModelInfo& model) {
  if (request.step) return RebuildBytes(request, INT32_MAX, model);
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  return RebuildBytes(request, prompt, model) + RebuildBytes(request, INT32_MAX, model);
}

absl::Status CheckRequest(const GenerationRequest& r, const ModelInfo& model, const Limits& limits,
                          bool has_tokenizer) {
  if (r.prompt.empty()) return absl::InvalidArgumentError("prompt is empty");
  for (size_t i = 0; i < r.prompt.size(); ++i) {
    if (r.prompt[i] < 0 || r.prompt[i] >= model.vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("prompt[%d]=%d is not in [0, %d)", i, r.prompt[i], model.vocab));
    }
  }
  if (static_cast<int64_t>(r.prompt.size()) >= model.max_position) {
    return absl::InvalidArgumentError(
        absl::StrFormat("prompt has %d tokens, the model's max_position is %d", r.prompt.size(),
                        model.max_position));
  }
  if (r.n < 1 || r.n > limits.max_samples) {
    return absl::InvalidArgumentError(
        absl::StrFormat("n=%d is not in [1, %d]", r.n, limits.max_samples));
  }
  if (r.first_sample < 0)
    return absl::InvalidArgumentError(
        absl::StrFormat("first_sample=%d is negative", r.first_sample));
  RETURN_IF_ERROR(rl::Validate(r.sampling));
  for (int32_t id : r.sampling.stop_ids) {
    if (id < 0 || id >= model.vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("sampling.stop_ids has %d, not in [0, %d)", id, model.vocab));
    }
  }
  for (const auto& [id, bias] : r.sampling.logit_bias) {
    if (id < 0 || id >= model.vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("sampling.logit_bias has id %d, not in [0, %d)", id, model.vocab));
    }
  }
  if (!r.sampling.stop_strings.empty() && !has_tokenizer) {
    return absl::InvalidArgumentError(
        "sampling.stop_strings needs a tokenizer, the model's folder has none");
  }
  if (r.budget_messages) {
    if (!has_tokenizer)
      return absl::InvalidArgumentError(
          "budget_messages needs a tokenizer, the model's folder has none");
    RETURN_IF_ERROR(rl::Validate(*r.budget_messages));
  }
  const int32_t prompt = r.step ? r.step->prompt_tokens : static_cast<int32_t>(r.prompt.size());
  RETURN_IF_ERROR(context::Validate(r.context, prompt));
  const bool of_sessions = std::holds_alternative<context::Turns>(r.context.trigger) ||
                           std::holds_alternative<context::Manual>(r.context.trigger);
  if (of_sessions && !r.step) {
    return absl::InvalidArgumentError(
        "context: turns and manual events belong to sessions, not to Generate");
  }
  RETURN_IF_ERROR(CheckBegun(r, model));
  const int64_t bytes = BytesNeeded(r, model);
  if (bytes > limits.kv_pool_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s up to %d bytes of KV cache, the pool has %d",
                        r.step ? "the session needs" : "a prompt and a sample of it need", bytes,
                        limits.kv_pool_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckSession(const SessionSpec& spec, const ModelInfo& model) {
  for (size_t i = 0; i < spec.prompt.size(); ++i) {
    if (spec.prompt[i] >= 0 && spec.prompt[i] < model.vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("prompt_ids[%d]=%d is not in [0, %d)", i, spec.prompt[i], model.vocab));
  }
  if (std::ssize(spec.prompt) >= model.max_position) {
    return absl::InvalidArgumentError(
        absl::StrFormat("prompt_ids has %d tokens, the model's max_position is %d",
                        spec.prompt.size(), model.max_position));
  }
  if (spec.ttl && *spec.ttl <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ttl_seconds=%g is not > 0", absl::ToDoubleSeconds(*spec.ttl)));
  }
  // Without a prompt what it protects is known when the first step brings one.
  if (!spec.prompt.empty())
    RETURN_IF_ERROR(context::Validate(spec.context, static_cast<int32_t>(spec.prompt.size())));
  if (spec.begun && spec.prompt.empty())
    return absl::InvalidArgumentError("prompt_ids is empty, begun has a prompt");
  return spec.begun ? CheckBegun(spec, model) : absl::OkStatus();
}

std::string RenderMessage(const rl::BudgetMessages& messages, int32_t used, int32_t budget) {
  return absl::StrReplaceAll(messages.text, {{"{used}", std::to_string(used)},
                                             {"{left}", std::to_string(std::max(0, budget - used))},
                                             {"{budget}", std::to_string(budget)}});
}

}  // namespace palimpsest::inference
