#pragma once

#include <cstdint>

#include "services/inference/core/engine.h"

// What may run, decided from numbers alone.
namespace palimpsest::inference {

// The most live slots (of any head) a sample of this request can have at once. Prompts are counted
// for each sample although they are shared: never too few.
int64_t SlotsNeeded(const GenerationRequest& request, int32_t max_position);

// The longest reference range of an event of this request; 0 when none listens. Not more than the
// sequence can have, whatever the request says.
int32_t RecordedPositions(const GenerationRequest& request, int32_t max_position);

// Tokens that the request may process, for fair shares: its prompt and all that it may sample.
int64_t TokensAsked(const GenerationRequest& request, int32_t max_position);

// Of one slot of one head, by choosers that weigh earlier events: its position and what it has
// received.
inline constexpr int64_t kCarriedSlotBytes = 4 + 8;

// Does the cache of this request carry importances from event to event?
bool CarriesImportance(const GenerationRequest& request);

// Bytes of a page of the cache, of one recorded position's queries (all heads) and keys, and of
// what one slot carries in all heads.
struct CacheCost {
  int64_t page_bytes = 0;
  int64_t query_bytes = 0;
  int64_t key_bytes = 0;
  int64_t carried_bytes = 0;
};
CacheCost CostOf(const ModelInfo& model);

// Bytes of a sequence's recorded reference queries (keys too when they are what an event listens
// to); they are taken when it gets its cache.
int64_t QueryBytes(const GenerationRequest& request, const ModelInfo& model);

// The most bytes that building the cache of its first `tokens` tokens takes at any moment.
int64_t RebuildBytes(const GenerationRequest& request, int32_t tokens, const ModelInfo& model);

// The most bytes that one sample and its prompt's own copy, which stays until every sample has been
// started from it, can hold. A session has one copy of all.
int64_t BytesNeeded(const GenerationRequest& request, const ModelInfo& model);

// INVALID_ARGUMENT naming field and value; RESOURCE_EXHAUSTED when one sample can never fit the
// pool.
absl::Status CheckRequest(const GenerationRequest& request, const ModelInfo& model,
                          const Limits& limits, bool has_tokenizer);

// Of a session's beginning, likewise. Another thread than the engine's may ask.
absl::Status CheckSession(const SessionSpec& spec, const ModelInfo& model);

// Text of a budget message: {used}, {left}, {budget} replaced by counts of sampled tokens.
std::string RenderMessage(const rl::BudgetMessages& messages, int32_t used, int32_t budget);

}  // namespace palimpsest::inference
