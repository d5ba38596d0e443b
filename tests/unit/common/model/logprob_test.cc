#include "common/model/logprob.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "tests/unit/common/model/model_testing.h"

namespace palimpsest::model {
namespace {

struct Answer {
  at::Tensor logprobs, entropy, of_hidden, of_head;
};

constexpr int64_t kRows = 11;

std::unique_ptr<Decoder> Model(DType dtype, bool tied = false, int vocab = 61) {
  ModelConfig config = SmallConfig(Architecture::kQwen3);
  config.tied_embeddings = tied;
  config.vocab = vocab;
  auto model = Decoder::Random(config, 4, dtype);
  for (auto [name, tensor] : model->Parameters()) tensor.requires_grad_(true);
  return model;
}

at::Tensor HiddenRows(const at::Tensor& like) {
  return at::sin(at::arange(kRows * 24, at::kDouble) * 1.7)
      .mul_(3)
      .view({kRows, 24})
      .to(like.scalar_type())
      .requires_grad_(true);
}

at::Tensor Targets() { return at::arange(kRows, at::kLong) * 5 % 61; }
// Weights of the loss, of both signs.
at::Tensor Pull(double phase) { return at::cos(at::arange(kRows, at::kDouble) + phase); }

void Backward(const at::Tensor& logprobs, const at::Tensor& entropy) {
  at::Tensor loss = (logprobs.to(at::kDouble) * Pull(0)).sum();
  if (entropy.defined()) loss = loss + (entropy.to(at::kDouble) * Pull(2)).sum();
  loss.backward();
}

Answer Chunked(const Decoder& model, double temperature, int64_t chunk_rows, bool entropy) {
  Answer answer;
  const at::Tensor hidden = HiddenRows(model.HeadWeight());
  if (entropy) {
    std::tie(answer.logprobs, answer.entropy) =
        TokenLogProbsAndEntropy(model, hidden, Targets(), temperature, chunk_rows);
  } else {
    answer.logprobs = TokenLogProbs(model, hidden, Targets(), temperature, chunk_rows);
  }
  Backward(answer.logprobs, answer.entropy);
  answer.of_hidden = hidden.grad();
  answer.of_head = model.HeadWeight().grad();
  return answer;
}

// The same by plain operations, all rows at once, in fp64.
Answer Plain(const Decoder& model, double temperature, bool entropy) {
  Answer answer;
  const at::Tensor hidden =
      HiddenRows(model.HeadWeight()).detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor head = model.HeadWeight().detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor logp = (hidden.matmul(head.t()) / temperature).log_softmax(-1);
  answer.logprobs = logp.gather(1, Targets().unsqueeze(1)).squeeze(1);
  if (entropy) answer.entropy = -(logp.exp() * logp).sum(1);
  Backward(answer.logprobs, answer.entropy);
  answer.of_hidden = hidden.grad();
  answer.of_head = head.grad();
  return answer;
}

void ExpectNear(const Answer& a, const Answer& b, double tolerance) {
  const auto near = [&](const at::Tensor& x, const at::Tensor& y) {
    return (x.to(at::kDouble) - y).abs().max().item<double>() <=
           tolerance * (1 + y.abs().max().item<double>());
  };
  EXPECT_TRUE(near(a.logprobs, b.logprobs));
  if (b.entropy.defined()) {
    EXPECT_TRUE(near(a.entropy, b.entropy));
  }
  EXPECT_TRUE(near(a.of_hidden, b.of_hidden));
  EXPECT_TRUE(near(a.of_head, b.of_head));
}

TEST(TokenLogProbsTest, AgreesWithPlainAutograd) {
  for (const bool entropy : {false, true}) {
    for (const int64_t chunk_rows : {1, 4, 11, 512}) {
      for (const double temperature : {1.0, 0.6}) {
        const auto wide = Model(DType::kFloat64);
        ExpectNear(Chunked(*wide, temperature, chunk_rows, entropy),
                   Plain(*wide, temperature, entropy), 1e-12);
        const auto single = Model(DType::kFloat32);
        ExpectNear(Chunked(*single, temperature, chunk_rows, entropy),
                   Plain(*single, temperature, entropy), 1e-5);
      }
    }
  }
}

// Values as in fp32, since products of bf16 are exact there; gradients are rounded to bf16 once.
TEST(TokenLogProbsTest, ABf16ModelLosesNothingButTheLastRoundingOfGradients) {
  const auto model = Model(DType::kBFloat16);
  const Answer chunked = Chunked(*model, 1.0, 4, true);
  const Answer plain = Plain(*model, 1.0, true);
  EXPECT_EQ(chunked.logprobs.scalar_type(), at::kFloat);
  EXPECT_LE((chunked.logprobs - plain.logprobs).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(chunked.of_head.scalar_type(), at::kBFloat16);
  ExpectNear(chunked, plain, 1.0 / 256);
}

TEST(TokenLogProbsTest, ATiedHeadAddsItsGradientToTheEmbedding) {
  const auto model = Model(DType::kFloat64, /*tied=*/true);
  ExpectNear(Chunked(*model, 1.0, 4, false), Plain(*model, 1.0, false), 1e-12);
  EXPECT_TRUE(model->Parameters().front().second.grad().is_same(model->HeadWeight().grad()));
}

// The head is multiplied in blocks of 16384 tokens.
TEST(TokenLogProbsTest, AVocabularyOfTwoBlocksAgreesWithPlainAutograd) {
  for (const int64_t chunk_rows : {4, 512}) {
    const auto wide = Model(DType::kFloat64, false, 17000);
    ExpectNear(Chunked(*wide, 0.6, chunk_rows, true), Plain(*wide, 0.6, true), 1e-12);
    const auto single = Model(DType::kFloat32, false, 17000);
    ExpectNear(Chunked(*single, 0.6, chunk_rows, true), Plain(*single, 0.6, true), 1e-5);
  }
}

// The first backward pass uses up what the forward pass has left.
TEST(TokenLogProbsTest, ASecondBackwardPassFindsTheSameGradients) {
  const auto model = Model(DType::kFloat64);
  const at::Tensor hidden = HiddenRows(model->HeadWeight());
  const at::Tensor loss =
      (TokenLogProbs(*model, hidden, Targets(), 1.0, 4).to(at::kDouble) * Pull(0)).sum();
  loss.backward({}, /*retain_graph=*/true);
  const at::Tensor once = hidden.grad().clone();
  loss.backward();
  EXPECT_TRUE(at::allclose(hidden.grad(), 2 * once, 1e-14, 1e-14));
}

TEST(TokenLogProbsTest, NoRowsGiveNoLogProbs) {
  const auto model = Model(DType::kFloat32);
  const at::Tensor none = TokenLogProbs(*model, at::empty({0, 24}), at::empty({0}, at::kLong), 1.0);
  EXPECT_EQ(none.numel(), 0);
}

TEST(TokenLogProbsTest, IsExactWhereTheTargetIsFarBelowTheMaximum) {
  const auto model = Model(DType::kFloat32);
  const c10::NoGradGuard no_grad;
  const at::Tensor hidden = HiddenRows(model->HeadWeight()).detach() * 1e3;
  const at::Tensor logprobs = TokenLogProbs(*model, hidden, Targets(), 1.0);
  const at::Tensor expected = hidden.to(at::kDouble)
                                  .matmul(model->HeadWeight().to(at::kDouble).t())
                                  .log_softmax(-1)
                                  .gather(1, Targets().unsqueeze(1))
                                  .squeeze(1);
  EXPECT_TRUE(logprobs.isfinite().all().item<bool>());
  EXPECT_TRUE(at::allclose(logprobs.to(at::kDouble), expected, 1e-5, 1e-2));
}

}  // namespace
}  // namespace palimpsest::model
