// Autograd through the decoder, and what packing and dtypes may not change.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "common/model/causal.h"
#include "common/model/decoder.h"
#include "common/model/embedding.h"
#include "common/model/linear.h"
#include "tests/unit/common/model/model_testing.h"

namespace palimpsest::model {
namespace {

// A smooth scalar of the model's outputs on two packed sequences.
at::Tensor Score(const Decoder& decoder) {
  CausalContext attention({4, 3});
  const at::Tensor ids = at::tensor({5, 9, 2, 60, 0, 9, 11}, at::kLong);
  const at::Tensor positions = at::tensor({0, 1, 2, 3, 900, 901, 902}, at::kLong);
  const at::Tensor logits = decoder.Logits(decoder.Hidden(ids, positions, attention));
  return logits.log_softmax(-1).select(1, 9).sum();
}

class GradientTest : public ::testing::TestWithParam<Architecture> {};

// Central differences in fp64: error of order step^2.
TEST_P(GradientTest, EveryParameterHasTheGradientOfFiniteDifferences) {
  ModelConfig config = SmallConfig(GetParam());
  config.tied_embeddings = GetParam() == Architecture::kQwen3;
  const auto model = Decoder::Random(config, 11, DType::kFloat64);
  for (auto [name, tensor] : model->Parameters()) tensor.requires_grad_(true);
  Score(*model).backward();
  const c10::NoGradGuard no_grad;
  constexpr double kStep = 1e-4;
  for (const auto& [name, tensor] : model->Parameters()) {
    ASSERT_TRUE(tensor.is_leaf()) << name;
    ASSERT_TRUE(tensor.grad().defined()) << name;
    const at::Tensor direction = at::sin(at::arange(tensor.numel(), at::kDouble)).view_as(tensor);
    tensor.add_(direction, kStep);
    const double above = Score(*model).item<double>();
    tensor.sub_(direction, 2 * kStep);
    const double below = Score(*model).item<double>();
    tensor.add_(direction, kStep);
    const double expected = (above - below) / (2 * kStep);
    EXPECT_NEAR((tensor.grad() * direction).sum().item<double>(), expected,
                1e-5 * (1 + std::abs(expected)))
        << name;
  }
}

TEST_P(GradientTest, ForwardIsBitEqualWithAndWithoutAutograd) {
  const auto model = Decoder::Random(SmallConfig(GetParam()), 11, DType::kFloat32);
  for (auto [name, tensor] : model->Parameters()) tensor.requires_grad_(true);
  const at::Tensor with = Score(*model);
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(with.requires_grad());
  EXPECT_EQ(with.item<float>(), Score(*model).item<float>());
}

INSTANTIATE_TEST_SUITE_P(Architectures, GradientTest,
                         ::testing::Values(Architecture::kQwen3, Architecture::kQwen2,
                                           Architecture::kLlama));

TEST(FusedLinearTest, AgreesWithSeparateMaps) {
  at::Tensor x = at::sin(at::arange(15, at::kDouble)).view({5, 3}).requires_grad_(true);
  const at::Tensor weight = at::cos(at::arange(21, at::kDouble)).view({7, 3});
  const at::Tensor bias = at::cos(at::arange(7, at::kDouble) * 3);
  std::vector<at::Tensor> leaves = {weight.narrow(0, 0, 4).detach(),
                                    weight.narrow(0, 4, 3).detach(), bias.narrow(0, 0, 4).detach(),
                                    bias.narrow(0, 4, 3).detach()};
  std::vector<at::Tensor> apart;
  for (at::Tensor& leaf : leaves) {
    leaf.requires_grad_(true);
    apart.push_back(leaf.detach().clone().requires_grad_(true));
  }
  at::Tensor x2 = x.detach().clone().requires_grad_(true);
  const at::Tensor fused = FusedLinear(x, weight, bias, leaves);
  const at::Tensor plain =
      at::cat({at::linear(x2, apart[0], apart[2]), at::linear(x2, apart[1], apart[3])}, 1);
  EXPECT_TRUE(at::allclose(fused, plain, 1e-12, 1e-12));
  fused.pow(3).sum().backward();
  plain.pow(3).sum().backward();
  EXPECT_TRUE(at::allclose(x.grad(), x2.grad(), 1e-12, 1e-12));
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_TRUE(at::allclose(leaves[i].grad(), apart[i].grad(), 1e-12, 1e-12)) << i;
  }
}

TEST(EmbeddingRowsTest, TheGradientOfAFrequentTokenIsNotLostInBf16) {
  const at::Tensor ids = at::zeros({1000}, at::kLong);
  const auto table = [] { return at::ones({2, 4}, at::kBFloat16).requires_grad_(true); };
  const at::Tensor ours = table(), plain = table();
  ours.set_grad_dtype(at::kFloat);
  EmbeddingRows(ours, ids).sum().backward();
  EXPECT_TRUE(at::equal(ours.grad()[0], at::full({4}, 1000, at::kFloat)));
  EXPECT_TRUE(at::equal(ours.grad()[1], at::zeros({4}, at::kFloat)));
  at::embedding(plain, ids).sum().backward();
  EXPECT_EQ(plain.grad()[0][0].item<float>(), 256) << "the control: 256 + 1 is 256 in bf16";
}

TEST(CausalContextTest, APackedSequenceSeesOnlyItself) {
  const auto model = Decoder::Random(SmallConfig(Architecture::kQwen3), 5, DType::kFloat64);
  const c10::NoGradGuard no_grad;
  const at::Tensor ids = at::tensor({5, 9, 2, 60, 0, 9, 11}, at::kLong);
  const at::Tensor positions = at::tensor({0, 1, 2, 3, 0, 1, 2}, at::kLong);
  CausalContext both({4, 3});
  CausalContext second({3});
  CausalContext merged({7});
  const at::Tensor packed = model->Hidden(ids, positions, both).narrow(0, 4, 3);
  const at::Tensor alone = model->Hidden(ids.narrow(0, 4, 3), positions.narrow(0, 4, 3), second);
  EXPECT_TRUE(at::allclose(packed, alone, 1e-12, 1e-12));
  const at::Tensor mixed = model->Hidden(ids, positions, merged).narrow(0, 4, 3);
  EXPECT_FALSE(at::allclose(packed, mixed, 1e-3, 1e-3));
}

TEST(CausalContextTest, ALaterTokenChangesNothingBefore) {
  const auto model = Decoder::Random(SmallConfig(Architecture::kLlama), 5, DType::kFloat64);
  const c10::NoGradGuard no_grad;
  const at::Tensor positions = at::arange(4, at::kLong);
  CausalContext attention({4});
  const at::Tensor a = model->Hidden(at::tensor({1, 2, 3, 4}, at::kLong), positions, attention);
  const at::Tensor b = model->Hidden(at::tensor({1, 2, 3, 5}, at::kLong), positions, attention);
  EXPECT_TRUE(at::equal(a.narrow(0, 0, 3), b.narrow(0, 0, 3)));
  EXPECT_FALSE(at::equal(a, b));
}

}  // namespace
}  // namespace palimpsest::model
