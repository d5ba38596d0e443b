#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "common/attention/draft_events.h"
#include "common/base/random.h"
#include "common/context/log.h"
#include "common/model/logprob.h"
#include "services/trainer/core/batch.h"
#include "services/trainer/engine/options.h"

// A tiny model and what it learns from, for the tests of the engine.
namespace palimpsest::trainer {

inline constexpr context::Shape kShape = {.layers = 2, .kv_heads = 2};
inline constexpr int kPrompt = 4, kTokens = 40;

inline context::ContextPolicy Budget() {
  return {.trigger = context::KvBudget{.budget = 16, .window = 8, .keep_ratio = 0.5},
          .reference_tokens = 12};
}

// Of the run `run` under `root`.
inline EngineOptions TinyOptions(const std::string& root, const std::string& run) {
  EngineOptions o;
  o.run = {.name = run, .folder = root + "/" + run, .seed = 5};
  o.model.init = {.layers = kShape.layers,
                  .hidden = 32,
                  .intermediate = 48,
                  .heads = 4,
                  .kv_heads = kShape.kv_heads,
                  .head_dim = 8,
                  .max_position = 64};
  o.threads = 1;
  o.schedule = {.learning_rate = 3e-3, .warmup_steps = 0};
  return o;
}

inline std::vector<int32_t> RandomTokens(uint64_t seed, uint64_t prompt_seed) {
  RandomStream prompt(prompt_seed), rest(seed);
  std::vector<int32_t> tokens;
  for (int i = 0; i < kTokens; ++i) {
    tokens.push_back(static_cast<int32_t>((i < kPrompt ? prompt : rest).Below(257)));
  }
  return tokens;
}

inline Batch SftBatch(int64_t step, const context::ContextPolicy& policy, int items = 6) {
  Batch batch{.id = "sft-" + std::to_string(step), .step = step};
  for (int i = 0; i < items; ++i) {
    SftItem item{.id = std::to_string(i),
                 .ids = RandomTokens(10 + i, i / 3),
                 .prompt_tokens = kPrompt,
                 .context = policy};
    item.loss_mask.assign(kTokens, true);
    std::fill_n(item.loss_mask.begin(), kPrompt, false);
    batch.sft.push_back(std::move(item));
  }
  return batch;
}

// A rollout of given tokens as `decoder` would have sampled it under `policy`.
inline rl::Rollout Replayed(const model::Decoder& decoder, const context::ContextPolicy& policy,
                            std::vector<int32_t> tokens, const std::string& id) {
  c10::NoGradGuard no_grad;
  rl::Rollout rollout{.id = id, .tokens = std::move(tokens), .prompt_tokens = kPrompt};
  const int32_t rows = kTokens - 1;
  attention::ReplaySequence sequence{
      .tokens = rollout.tokens, .prompt_tokens = kPrompt, .rows = rows};
  sequence.events = *attention::DraftEvents(policy, kShape, kPrompt, rows);
  const auto batch = attention::PackedBatch::Create({&sequence, 1}, kShape);
  EXPECT_TRUE(batch.ok()) << batch.status();
  attention::ReplayContext context(*batch, {.scale = 1 / std::sqrt(8.0)});
  const at::Tensor hidden = decoder.Hidden(at::tensor(batch->ids(), at::kLong),
                                           at::tensor(batch->positions(), at::kLong), context);
  for (const auto& events : context.TakeEvents()) {
    rollout.events.insert(rollout.events.end(), events.begin(), events.end());
  }
  EXPECT_TRUE(context::CompleteDigests(rollout.tokens, rollout.events).ok());
  const at::Tensor targets =
      at::tensor(std::vector<int64_t>(rollout.tokens.begin() + 1, rollout.tokens.end()), at::kLong);
  const at::Tensor logprobs = model::TokenLogProbs(decoder, hidden, targets, 1.0);
  for (int i = 0; i < kTokens; ++i) {
    const bool sampled = i >= kPrompt;
    rollout.origins.push_back(sampled ? rl::Origin::kSampled : rl::Origin::kPrompt);
    rollout.logprobs.push_back(sampled ? logprobs[i - 1].item<float>() : 0);
  }
  rollout.spans = {{kPrompt, kTokens, PolicyVersion(1), 0}};
  return rollout;
}

inline Batch RlBatch(const model::Decoder& decoder, int64_t step,
                     const context::ContextPolicy& policy, int items = 6) {
  Batch batch{.id = "rl-" + std::to_string(step), .step = step};
  for (int i = 0; i < items; ++i) {
    batch.rl.push_back(
        {.rollout = Replayed(decoder, policy, RandomTokens(10 + i, i / 3), "r" + std::to_string(i)),
         .advantage = 1});
  }
  return batch;
}

inline context::ContextPolicy Evicting() {
  context::ContextPolicy policy = Budget();
  policy.method = context::Method::kEvict;
  policy.parameters.chooser = context::Chooser::kAttention;
  return policy;
}

// Two groups that share their prompts: of each method some, one without events, one at another
// temperature.
inline Batch MixedBatch(const model::Decoder& decoder, int64_t step = 1) {
  Batch batch{.id = "mixed-" + std::to_string(step), .step = step};
  for (int i = 0; i < 6; ++i) {
    const context::ContextPolicy policy = i == 5  ? context::ContextPolicy{}
                                          : i % 2 ? Evicting()
                                                  : Budget();
    batch.rl.push_back(
        {.rollout = Replayed(decoder, policy, RandomTokens(10 + i, i / 3), "r" + std::to_string(i)),
         .advantage = 1 - 0.4 * i});
  }
  batch.rl[4].rollout.temperature = 0.8;
  return batch;
}

}  // namespace palimpsest::trainer
