#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "services/trainer/engine/loss.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// Policy gradients against the truth. There are so few responses that each can be looked at: the
// expected reward J = sum over y of p(y) R(y) and its gradient are exact, under the recorded
// visibility and without it; expectations of estimators, through the trainer's own pass and loss,
// are exact as well.
namespace palimpsest::trainer {
namespace {

constexpr int kVocab = 5, kStart = 8, kLength = 4, kRows = kStart + kLength - 1;
constexpr int kResponses = 625;  // kVocab^kLength
constexpr model::ModelConfig kModel{.layers = 2,
                                    .hidden = 16,
                                    .intermediate = 24,
                                    .heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 4,
                                    .vocab = kVocab,
                                    .max_position = 32};
constexpr context::Shape kHeads = {.layers = kModel.layers, .kv_heads = kModel.kv_heads};
constexpr attention::ReplayOptions kPass = {.scale = 0.5};  // 4^-1/2

std::unique_ptr<model::Decoder> Model() {
  auto decoder = model::Decoder::Random(kModel, 7, model::DType::kFloat64);
  for (auto [name, tensor] : decoder->Parameters()) {
    // Attention that is peaked, and to whose answers the head listens: the views differ.
    if (name.find("q_proj") != std::string::npos) tensor.mul_(3);
    if (name.find("lm_head") != std::string::npos) tensor.mul_(2);
    tensor.requires_grad_(true);
  }
  return decoder;
}

std::vector<int32_t> TokensOf(int response) {
  std::vector<int32_t> tokens = {0, 3, 1, 4, 2, 0, 1, 3};
  for (int i = 0; i < kLength; ++i, response /= kVocab) tokens.push_back(response % kVocab);
  return tokens;
}

double RewardOf(int response) { return std::sin(2.3 * response) + (response % 7 == 0); }

// What a response's eviction keeps of each layer and head: of the prompt as it was, of what
// follows by the first token that was sampled.
using Kept = std::vector<std::vector<int32_t>>;  // [L * Hk]
const Kept kOfPrompt = {{3}, {}, {2, 5}, {1}};
Kept KeptLater(const std::vector<int32_t>& tokens) {
  if (tokens[kStart] % 2 == 0) return {{6, 9}, {7}, {}, {8, 9}};
  return {{8}, {7}, {6, 8}, {9}};
}
constexpr context::Range kFirst = {1, 6}, kSecond = {6, 10};

context::Event Evict(int32_t at, context::Range window, const Kept& kept) {
  context::Event event{.at = at, .window = window, .method = context::Method::kEvict};
  event.parameters.chooser = context::Chooser::kRecent;
  event.kept = context::KeptPositions(kHeads);
  for (const auto& positions : kept) event.kept.AddHead(positions);
  return event;
}

// Plain attention over equally long sequences, of each head under a matrix of 0 and -inf.
class MaskedContext final : public model::AttentionContext {
 public:
  explicit MaskedContext(std::vector<at::Tensor> masks) : masks_(std::move(masks)) {}
  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override {
    const auto by_sequence = [](const at::Tensor& x) {
      return x.reshape({kResponses, kRows, kModel.kv_heads, -1, kModel.head_dim});
    };
    // [S, R, Hk, g, d] and [S, R, Hk, d]
    const at::Tensor keys = by_sequence(k).squeeze(3), values = by_sequence(v).squeeze(3);
    const at::Tensor scores =
        at::einsum("sihgd,sjhd->shgij", {by_sequence(q), keys}) * 0.5 + masks_[layer];
    return at::einsum("shgij,sjhd->sihgd", {scores.softmax(-1), values}).reshape_as(q);
  }

 private:
  std::vector<at::Tensor> masks_;  // by layer, [S, Hk, 1, R, R]
};

bool Sees(rl::View view, const Kept& later, int head, int32_t row, int32_t position) {
  if (position > row) return false;
  if (view == rl::View::kDense) return true;
  const auto among = [&](const Kept& kept) {
    return std::find(kept[head].begin(), kept[head].end(), position) != kept[head].end();
  };
  if (row >= kStart && kFirst.contains(position)) return among(kOfPrompt);
  if (row >= kSecond.end && kSecond.contains(position)) return among(later);
  return true;
}

MaskedContext MaskOf(rl::View view) {
  std::vector<at::Tensor> masks;
  for (int layer = 0; layer < kModel.layers; ++layer) {
    masks.push_back(at::zeros({kResponses, kModel.kv_heads, 1, kRows, kRows}, at::kDouble));
    double* hidden = masks.back().mutable_data_ptr<double>();
    for (int s = 0; s < kResponses; ++s) {
      const Kept later = KeptLater(TokensOf(s));
      for (int head = 0; head < kModel.kv_heads; ++head) {
        for (int32_t row = 0; row < kRows; ++row) {
          for (int32_t position = 0; position < kRows; ++position, ++hidden) {
            const bool sees = Sees(view, later, layer * kModel.kv_heads + head, row, position);
            if (!sees) *hidden = -std::numeric_limits<double>::infinity();
          }
        }
      }
    }
  }
  return MaskedContext(std::move(masks));
}

struct Truth {
  at::Tensor logprobs;               // [S, kLength]
  std::vector<double> probability;   // [S]
  std::vector<at::Tensor> gradient;  // of J
};

Truth TruthOf(const model::Decoder& decoder, rl::View view) {
  std::vector<int64_t> ids, positions, targets;
  std::vector<double> rewards;
  for (int s = 0; s < kResponses; ++s) {
    const std::vector<int32_t> tokens = TokensOf(s);
    ids.insert(ids.end(), tokens.begin(), tokens.end() - 1);
    for (int i = 0; i < kRows; ++i) positions.push_back(i);
    targets.insert(targets.end(), tokens.begin() + kStart, tokens.end());
    rewards.push_back(RewardOf(s));
  }
  MaskedContext attention = MaskOf(view);
  const at::Tensor hidden =
      decoder.Hidden(at::tensor(ids, at::kLong), at::tensor(positions, at::kLong), attention);
  const at::Tensor rows = hidden.view({kResponses, kRows, -1}).narrow(1, kStart - 1, kLength);
  Truth truth;
  truth.logprobs = decoder.Logits(rows.reshape({kResponses * kLength, -1}))
                       .log_softmax(-1)
                       .gather(1, at::tensor(targets, at::kLong).unsqueeze(1))
                       .view({kResponses, kLength});
  const at::Tensor probability = truth.logprobs.sum(1).exp();
  (probability * at::tensor(rewards, at::kDouble)).sum().backward();
  truth.gradient = TakeGradients(decoder);
  truth.logprobs = truth.logprobs.detach();
  const double* first = probability.const_data_ptr<double>();
  truth.probability = {first, first + kResponses};
  return truth;
}

// The expectation, over responses drawn by `drawn`, of the policy gradient that the trainer takes
// by `view`, believing that it is the view that they were drawn from. Minus what it descends.
std::vector<at::Tensor> Estimate(const model::Decoder& decoder, rl::View view, const Truth& of_view,
                                 const std::vector<double>& drawn, bool constant_reward = false) {
  std::vector<std::vector<int32_t>> tokens;
  for (int s = 0; s < kResponses; ++s) tokens.push_back(TokensOf(s));
  std::vector<LossSequence> sequences;
  for (int s = 0; s < kResponses; ++s) {
    LossSequence& sequence = sequences.emplace_back();
    sequence.replay = {.tokens = tokens[s], .prompt_tokens = kStart, .rows = kRows};
    sequence.replay.events = {{Evict(kStart, kFirst, kOfPrompt)},
                              {Evict(kSecond.end, kSecond, KeptLater(tokens[s]))}};
    for (int i = 0; i < kLength; ++i) {
      sequence.tokens.push_back({.position = kStart + i,
                                 .recorded = of_view.logprobs[s][i].item<double>(),
                                 .advantage = constant_reward ? 1 : RewardOf(s),
                                 .weight = drawn[s]});
    }
  }
  rl::ObjectiveSums sums;
  const auto pass = RunPass(decoder, kPass, Pointers(sequences),
                            [&](const PassTokens& p) { return PolicyLoss({}, p, {}, sums); },
                            SystemClock(), {.learner = view, .compare = true});
  EXPECT_TRUE(pass.ok()) << pass.status();
  EXPECT_NEAR(sums.max_ratio, 1, 1e-12);
  for (const rl::ViewGap& gap : pass->gaps) {
    if (gap.place > 0) continue;  // the row that predicts the first token saw everything
    EXPECT_NEAR(gap.acceptance, 1, 1e-12);
    EXPECT_NEAR(gap.dense_shadow, 0, 1e-12);
  }
  std::vector<at::Tensor> gradient = TakeGradients(decoder);
  for (at::Tensor& g : gradient) g.neg_();
  return gradient;
}

double Norm(const std::vector<at::Tensor>& a) { return std::sqrt(Dot(a, a)); }

double Distance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& truth) {
  std::vector<at::Tensor> difference;
  for (size_t i = 0; i < a.size(); ++i) difference.push_back(a[i] - truth[i]);
  return Norm(difference) / Norm(truth);
}

TEST(EnumerationTest, TheShadowEstimatorIsTheGradientOfWhatIsSampledAndTheNaiveOneOfNothing) {
  const auto decoder = Model();
  const Truth shadow = TruthOf(*decoder, rl::View::kShadow);
  const Truth dense = TruthOf(*decoder, rl::View::kDense);
  double sum_shadow = 0, sum_dense = 0, kl = 0, second_moment = 0;
  for (int s = 0; s < kResponses; ++s) {
    const double p = dense.probability[s], q = shadow.probability[s];
    sum_shadow += q;
    sum_dense += p;
    kl += q * std::log(q / p);
    second_moment += p * p / q;
  }
  EXPECT_NEAR(sum_shadow, 1, 1e-12);
  EXPECT_NEAR(sum_dense, 1, 1e-12);

  using rl::View;
  const auto of_shadow = Estimate(*decoder, View::kShadow, shadow, shadow.probability);
  const auto naive = Estimate(*decoder, View::kDense, dense, shadow.probability);
  const auto of_dense = Estimate(*decoder, View::kDense, dense, dense.probability);
  EXPECT_LT(Distance(of_shadow, shadow.gradient), 1e-12);
  EXPECT_LT(Distance(of_dense, dense.gradient), 1e-12);
  EXPECT_GT(Distance(naive, shadow.gradient), 0.1);
  EXPECT_GT(Distance(naive, dense.gradient), 0.1);

  // A reward that is the same for all teaches nothing; the naive estimator drifts all the same.
  const double at_rest = Norm(Estimate(*decoder, View::kShadow, shadow, shadow.probability, true));
  const double drift = Norm(Estimate(*decoder, View::kDense, dense, shadow.probability, true));
  EXPECT_LT(at_rest, 1e-12);
  EXPECT_GT(drift, 0.1);

  std::printf(
      "KL(shadow || dense) %.3g nats; relative error of shadow %.2g, of naive %.2g (to the dense "
      "objective %.2g); drift %.2g against %.2g; second moment of the weights %.3g\n",
      kl, Distance(of_shadow, shadow.gradient), Distance(naive, shadow.gradient),
      Distance(naive, dense.gradient), drift, at_rest, second_moment);
}

}  // namespace
}  // namespace palimpsest::trainer
