#include "tests/bench/cost_model.h"

#include <algorithm>

namespace palimpsest::bench {
namespace {

constexpr double kPasses = 3;  // forward, and twice as much backward
// AdamW of one number: the gradient scaled, two moments (2 and 3), decay, the root of the corrected
// square (3), the step (2).
constexpr double kAdam = 12;
constexpr double kSolves = 5;  // systems that the weights of an event take, 2 to 8

// One head's event (design section 4): scores, outputs, two Gram matrices, right-hand sides,
// solves.
double SolveCost(double queries, double window, double kept, double d) {
  return queries * (2 * window * d + 2 * kept * kept + kept * d) + kept * kept * d +
         (kSolves + 1) * kept * kept * kept / 3;
}

// Weights of one layer's products; norms are too few to count.
double LinearNumbers(const model::ModelConfig& model) {
  const double attention_width = model.heads * model.head_dim;
  const double kv_width = model.kv_heads * model.head_dim;
  return model.hidden * (2 * attention_width + 2 * kv_width) +
         3.0 * model.hidden * model.intermediate;
}

}  // namespace

double StepCost(const model::ModelConfig& model, double rows, double pairs, double loss_rows) {
  return model.layers * (rows * LinearNumbers(model) + pairs * 2 * model.heads * model.head_dim) +
         loss_rows * model.hidden * model.vocab;
}

double TrainCost(const model::ModelConfig& model, double rows, double pairs, double loss_rows) {
  const double tables = (model.tied_embeddings ? 1.0 : 2.0) * model.vocab * model.hidden;
  return kPasses * StepCost(model, rows, pairs, loss_rows) +
         kAdam * (model.layers * LinearNumbers(model) + tables);
}

EventCost CostOf(const Rollouts& rollouts, const context::KvBudget& budget,
                 const model::ModelConfig& model) {
  const int kept =
      context::KeptCount(context::Method::kAttentionMatching, budget.keep_ratio, budget.window);
  const double group = double{1} * model.heads / model.kv_heads;
  double rows = 0, loss_rows = 0, plain_pairs = 0, pairs = 0, events = 0;
  const std::vector<int32_t>* prompt = nullptr;  // of the group at hand
  for (const attention::ReplaySequence& s : rollouts.sequences) {
    const auto same = [&](const std::vector<int32_t>& other) {
      return std::equal(other.begin(), other.begin() + s.prompt_tokens, s.tokens.begin());
    };
    if (prompt == nullptr || !same(*prompt)) {
      prompt = &rollouts.tokens[static_cast<size_t>(&s - rollouts.sequences.data())];
      rows += s.prompt_tokens;
      plain_pairs += s.prompt_tokens * (s.prompt_tokens + 1) / 2.0;
      pairs += s.prompt_tokens * (s.prompt_tokens + 1) / 2.0;
    }
    double live = s.prompt_tokens;
    size_t next = 0;
    for (int32_t p = s.prompt_tokens; p < s.rows; ++p) {
      if (next < s.events.size() && s.events[next].event.at == p) {
        live -= budget.window - kept;
        events += model.kv_heads * SolveCost(group * s.events[next].event.reference.size(),
                                             budget.window, kept, model.head_dim);
        ++next;
      }
      ++live;
      pairs += live;
      plain_pairs += p + 1;
    }
    rows += s.rows - s.prompt_tokens;
    loss_rows += s.rows - s.prompt_tokens;
  }
  const double plain = kPasses * StepCost(model, rows, plain_pairs, loss_rows),
               with_events = kPasses * StepCost(model, rows, pairs, loss_rows);
  const double solved = model.layers * events;
  return {.detached = (with_events + solved) / plain,
          .full = (with_events + (1 + kPasses) * solved) / plain};
}

}  // namespace palimpsest::bench
