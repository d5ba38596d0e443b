#pragma once

#include "services/inference/http/ask.h"
#include "services/inference/http/fields.h"

// Parts of a body that stand apart from one another; each takes its fields out of `body`.
namespace palimpsest::inference {

// What both endpoints know: sampling, n, stream, model, user, context.
void ReadCommon(Fields& body, uint64_t fresh_seed, Ask& ask, v1::GenerateRequest& request);

// `context`: {"kind": "kv_budget" | "segments" | "none", ..}. True: something may be compacted.
bool ReadContext(const nlohmann::json& value, Fields& body, v1::ContextPolicy& policy);

// `messages`, and what belongs to the template.
void ReadChat(Fields& body, v1::ChatPrompt& chat);

}  // namespace palimpsest::inference
