#pragma once

#include "tests/unit/services/inference/engine/engine_testing.h"

namespace palimpsest::inference {

class SessionTest : public EngineTest {
 protected:
  static SessionSpec Spec(context::ContextPolicy context = {}) {
    SessionSpec spec{.request_id = "create", .context = std::move(context), .seed = 11};
    for (int i = 0; i < 16; ++i) spec.prompt.push_back(40 + (i * 37) % 200);
    return spec;
  }
  static context::ContextPolicy TurnBased(context::Method method) {
    context::ContextPolicy policy{
        .trigger = context::Turns{.n_protect_turns = 1, .keep_ratio = 0.3},
        .method = method,
        .reference_tokens = 24};
    if (method == context::Method::kEvict) policy.parameters.chooser = context::Chooser::kAttention;
    return policy;
  }
  static std::vector<int32_t> Words(int n, int seed) {
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back((seed * 31 + i * 17) % 250);
    return ids;
  }
  static SessionInfo Open(Engine& engine, SessionSpec spec) {
    const auto info = engine.sessions()->Create(std::move(spec));
    EXPECT_TRUE(info.ok()) << info.status();
    return *info;
  }
  static SessionInfo Find(Engine& engine, const std::string& id) {
    for (const SessionInfo& info : engine.sessions()->List("")) {
      if (info.id == id) return info;
    }
    ADD_FAILURE() << id << " is not open";
    return {};
  }
  static GenerationRequest Step(const std::string& id, int tokens, std::vector<int32_t> ids,
                                int max_tokens) {
    GenerationRequest r{.request_id = "step", .prompt = std::move(ids)};
    r.sampling.max_tokens = max_tokens;
    r.sampling.ignore_eos = true;
    r.step = SessionStep{.id = id, .expected_tokens = tokens};
    return r;
  }
  // The whole sequence after one more step.
  static rl::Rollout Go(Engine& engine, const std::string& id, std::vector<int32_t> ids,
                        int max_tokens = 12) {
    const auto sink =
        Generate(engine, Step(id, Find(engine, id).tokens, std::move(ids), max_tokens));
    EXPECT_EQ(sink->finished.size(), 1u);
    return sink->finished[0].rollout;
  }
  static absl::Status Refusal(Engine& engine, GenerationRequest step) {
    return engine.Submit(std::move(step), std::make_shared<Collector>(1));
  }
  // The log explains every sampled token.
  static void ExpectReplays(Engine& engine, const rl::Rollout& r) {
    const auto score = engine.Score({.tokens = r.tokens, .events = r.events});
    ASSERT_TRUE(score.ok()) << score.status();
    for (size_t p = 1; p < r.tokens.size(); ++p) {
      if (r.origins[p] == rl::Origin::kSampled)
        EXPECT_NEAR(score->logprobs[p - 1], r.logprobs[p], 2e-4);
      else
        EXPECT_EQ(r.logprobs[p], 0);
    }
  }
};

}  // namespace palimpsest::inference
