#include "tests/unit/common/wire/generate.h"

namespace palimpsest::wire {
namespace {

using context::Chooser;
using context::Method;

bool Coin(RandomStream& stream) { return stream.Below(2) == 1; }
int32_t Int(RandomStream& stream, int32_t low, int32_t high) {
  return static_cast<int32_t>(stream.Between(low, high));
}

context::Parameters RandomParameters(RandomStream& stream, Method method) {
  context::Parameters p;
  p.mu = 1e-6 + stream.Uniform();
  p.lambda = 1e-6 + stream.Uniform();
  p.log_lower = -1e-3 - 10 * stream.Uniform();
  p.log_upper = 1e-3 + 10 * stream.Uniform();
  const bool evicts = method == Method::kEvict;
  p.chooser = static_cast<Chooser>(evicts ? Int(stream, 5, 7) : Int(stream, 1, 4));
  if (Coin(stream)) p.chooser = static_cast<Chooser>(Int(stream, 8, 10));  // of any method
  p.reference_kind = static_cast<context::ReferenceKind>(Int(stream, 1, 3));
  p.seed = stream.Next64();
  p.holdout_every = Coin(stream) ? 0 : Int(stream, 2, 9);
  return p;
}

Method RandomMethod(RandomStream& stream) { return static_cast<Method>(Int(stream, 1, 3)); }

}  // namespace

context::Event RandomEvent(RandomStream& stream, context::Shape shape, int32_t at) {
  context::Event event;
  event.at = at;
  event.window.begin = Int(stream, 0, at - 1);
  event.window.end = Int(stream, event.window.begin + 1, at);
  event.method = RandomMethod(stream);
  event.parameters = RandomParameters(stream, event.method);
  event.reference.begin = Int(stream, 0, at);
  event.reference.end = Int(stream, event.reference.begin, at);
  event.kept = context::KeptPositions(shape);
  for (int head = 0; head < shape.layers * shape.kv_heads; ++head) {
    std::vector<int32_t> positions;
    for (int32_t p = event.window.begin; p < event.window.end; ++p) {
      if (Coin(stream)) positions.push_back(p);
    }
    event.kept.AddHead(positions);
  }
  if (Coin(stream)) {
    event.digest.emplace();
    for (uint8_t& byte : event.digest->bytes) byte = static_cast<uint8_t>(stream.Below(256));
  }
  if (context::UsesReference(event.method, event.parameters.chooser)) {
    event.quality = {stream.Uniform(), stream.Uniform(), stream.Uniform(), {}, {}};
    if (event.parameters.holdout_every > 0) {
      event.quality.holdout_mass_error = stream.Uniform();
      event.quality.holdout_output_error = stream.Uniform();
    }
  }
  event.seconds = stream.Uniform();
  return event;
}

context::ContextPolicy RandomPolicy(RandomStream& stream) {
  context::ContextPolicy policy;
  const double keep_ratio = 0.9 * stream.Uniform();
  const int32_t window = Int(stream, 11, 50);  // so that no event keeps everything
  switch (stream.Below(5)) {
    case 0:
      break;
    case 1:
      policy.trigger = context::KvBudget{window + Int(stream, 20, 50), window, keep_ratio,
                                         Coin(stream) ? 0 : 0.9 * stream.Uniform()};
      break;
    case 2:
      policy.trigger = context::Segments{Int(stream, 1, 99), window, keep_ratio};
      break;
    case 3: {
      context::Turns turns{Int(stream, 0, 4), {}, keep_ratio};
      if (Coin(stream)) turns.max_turns = turns.n_protect_turns + Int(stream, 1, 3);
      policy.trigger = turns;
      break;
    }
    default:
      policy.trigger = context::Manual{keep_ratio};
  }
  policy.method = RandomMethod(stream);
  policy.parameters = RandomParameters(stream, policy.method);
  policy.reference_tokens = Int(stream, 1, 512);
  policy.after_window = Coin(stream);
  if (Coin(stream)) policy.protect = Int(stream, 0, 20);
  policy.stack = Coin(stream);
  return policy;
}

rl::Rollout RandomRollout(RandomStream& stream) {
  rl::Rollout rollout;
  rollout.id = "rollout-" + std::to_string(stream.Below(1000));
  const int32_t tokens = Int(stream, 1, 60);
  rollout.prompt_tokens = Int(stream, 1, tokens);
  for (int32_t i = 0; i < tokens; ++i) {
    const bool sampled = i >= rollout.prompt_tokens && stream.Below(5) != 0;
    rollout.tokens.push_back(Int(stream, 0, 1 << 20));
    rollout.origins.push_back(i < rollout.prompt_tokens ? rl::Origin::kPrompt
                              : sampled                 ? rl::Origin::kSampled
                                                        : rl::Origin::kInjected);
    rollout.logprobs.push_back(sampled ? -static_cast<float>(9 * stream.Uniform()) : 0.f);
  }
  const context::Shape shape{Int(stream, 1, 3), Int(stream, 1, 3)};
  for (int32_t at = Int(stream, 1, 20); at < tokens; at += Int(stream, 1, 20)) {
    rollout.events.push_back(RandomEvent(stream, shape, at));
  }
  for (int32_t begin = rollout.prompt_tokens; begin < tokens;) {
    const int32_t end = Int(stream, begin + 1, tokens);
    rollout.spans.push_back(
        {begin, end, PolicyVersion(stream.Below(int64_t{1} << 40)), Int(stream, 0, 3)});
    begin = end;
  }
  rollout.finish_reason = static_cast<rl::FinishReason>(Int(stream, 1, 5));
  rollout.seed = stream.Next64();
  rollout.sample = Int(stream, 0, 63);
  rollout.temperature = 0.1 + stream.Uniform();
  rollout.greedy = Coin(stream);
  rollout.truncated_sampling = Coin(stream);
  rollout.seconds = stream.Uniform();
  return rollout;
}

rl::SamplingParams RandomSampling(RandomStream& stream) {
  rl::SamplingParams p;
  p.temperature = stream.Uniform();
  p.top_k = Int(stream, 0, 100);
  p.top_p = 1 - 0.9 * stream.Uniform();
  p.min_p = 0.9 * stream.Uniform();
  p.repetition_penalty = 0.5 + stream.Uniform();
  p.presence_penalty = 4 * stream.Uniform() - 2;
  p.frequency_penalty = 4 * stream.Uniform() - 2;
  for (int64_t i = stream.Below(4); i > 0; --i) {
    p.logit_bias[Int(stream, 0, 999)] = static_cast<float>(stream.Uniform());
  }
  for (int64_t i = stream.Below(4); i > 0; --i) p.stop_ids.push_back(Int(stream, 0, 999));
  for (int64_t i = stream.Below(4); i > 0; --i)
    p.stop_strings.push_back("stop" + std::to_string(i));
  if (Coin(stream)) p.max_tokens = Int(stream, 50, 100);
  p.min_tokens = Int(stream, 0, 50);
  p.seed = stream.Next64();
  p.ignore_eos = Coin(stream);
  if (Coin(stream)) p.top_logprobs = Int(stream, 0, 20);
  if (Coin(stream)) p.prompt_logprobs = Int(stream, 0, 20);
  return p;
}

rl::BudgetMessages RandomBudgetMessages(RandomStream& stream) {
  return {"used {used} of {budget}", Coin(stream), Int(stream, 1, 50), Int(stream, 0, 99)};
}

}  // namespace palimpsest::wire
