#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numeric>

#include "common/attention/execute_torch.h"

namespace palimpsest::attention {
namespace {

// Rows that see `cut` keys as one part and the others as a second one.
class TwoParts {
 public:
  static constexpr int64_t kRows = 6, kKeys = 10, kCut = 4;
  at::Tensor q = Leaf({kRows, 4, 8}), k = Leaf({kKeys, 2, 8}), v = Leaf({kKeys, 2, 8});

  // The attention of [0, kCut) and [kCut, kKeys), as one plan.
  at::Tensor Whole() const {
    return AttendWithGrad(Plan({{0, kCut}, {kCut, kKeys}}), q, Keys(), 1);
  }
  // Each part by itself, merged with weights that are constants to autograd: what one gets by
  // calling ready-made attention operators and merging their outputs.
  at::Tensor MergedWithConstantL() const {
    std::vector<at::Tensor> o, l;
    for (const auto& [begin, end] : {std::pair(int64_t{0}, kCut), std::pair(kCut, kKeys)}) {
      const auto plan = Plan({{begin, end}});
      o.push_back(AttendWithGrad(plan, q, Keys(), 1));
      l.push_back(ExecutePlan(*plan, q.detach(), Keys(), 1).lse);
    }
    const at::Tensor all = at::logaddexp(l[0], l[1]);
    return o[0] * at::exp(l[0] - all).unsqueeze(2) + o[1] * at::exp(l[1] - all).unsqueeze(2);
  }
  at::Tensor Dense() const {
    const at::Tensor wide_k = k.repeat_interleave(2, 1), wide_v = v.repeat_interleave(2, 1);
    const at::Tensor s = at::einsum("qhd,khd->hqk", {q, wide_k});
    return at::einsum("hqk,khd->qhd", {at::softmax(s, 2), wide_v});
  }

 private:
  static at::Tensor Leaf(at::IntArrayRef shape) {
    return at::randn(shape, at::kDouble).requires_grad_(true);
  }
  KeySource Keys() const {
    return {.k = k,
            .v = v,
            .k_compact = k.slice(0, 0, 0),
            .v_compact = v.slice(0, 0, 0),
            .bias = at::zeros({0, 2}, at::kDouble)};
  }
  static std::shared_ptr<const AttentionPlan> Plan(
      const std::vector<std::pair<int64_t, int64_t>>& parts) {
    std::vector<int64_t> rows(kRows);
    std::iota(rows.begin(), rows.end(), 0);
    PlanBuilder builder(kRows, 2);
    for (const auto& [begin, end] : parts) {
      std::vector<int64_t> slots(end - begin);
      std::iota(slots.begin(), slots.end(), begin);
      builder.AddShared(rows, slots);
    }
    return std::make_shared<const AttentionPlan>(builder.Build());
  }
};

TEST(MergeNegativeControlTest, DifferentiatingTheMergeWithConstantLIsFarOff) {
  const TwoParts parts;
  const at::Tensor weight = at::randn({TwoParts::kRows, 4, 8}, at::kDouble);
  const auto gradients = [&](const at::Tensor& o) {
    return torch::autograd::grad({(o * weight).sum()}, {parts.q, parts.k});
  };
  const auto exact = gradients(parts.Dense()), whole = gradients(parts.Whole()),
             wrong = gradients(parts.MergedWithConstantL());
  EXPECT_LT((parts.MergedWithConstantL() - parts.Dense()).abs().max().item<double>(), 1e-12);
  for (int i = 0; i < 2; ++i) {
    const double norm = exact[i].norm().item<double>();
    EXPECT_LT((whole[i] - exact[i]).norm().item<double>() / norm, 1e-12);
    EXPECT_GT((wrong[i] - exact[i]).norm().item<double>() / norm, 0.05);
  }
}

TEST(ExecutePlanTest, ADecodeStepIsAPlanWithOneRowPerSequence) {
  const int64_t slots = 50, heads = 4, kv_heads = 2, d = 16;
  const at::Tensor k = at::randn({slots, kv_heads, d}), v = at::randn({slots, kv_heads, d}),
                   q = at::randn({3, heads, d});
  const KeySource source{.k = k,
                         .v = v,
                         .k_compact = k.slice(0, 0, 0),
                         .v_compact = v.slice(0, 0, 0),
                         .bias = at::zeros({0, kv_heads})};
  PlanBuilder builder(3, kv_heads);
  const std::vector<std::vector<int64_t>> seen = {{3, 1, 40}, {7, 8, 9, 10, 11}, {49}};
  for (int64_t i = 0; i < 3; ++i) builder.AddPerHead(i, 1, {seen[i], seen[i]});
  const AttentionResult result = ExecutePlan(builder.Build(), q, source, 0.25);
  for (int64_t i = 0; i < 3; ++i) {
    const at::Tensor index = at::tensor(seen[i], at::kLong);
    for (int64_t h = 0; h < heads; ++h) {
      const at::Tensor s = at::mv(k.index_select(0, index).select(1, h / 2), q[i][h]) * 0.25;
      const at::Tensor o = at::mv(v.index_select(0, index).select(1, h / 2).t(), at::softmax(s, 0));
      EXPECT_LT((o - result.o[i][h]).abs().max().item<double>(), 1e-5);
      EXPECT_NEAR(at::logsumexp(s, 0).item<double>(), result.lse[i][h].item<double>(), 1e-5);
    }
  }
}

TEST(PlanBuilderTest, TheNumberOfKernelGroupsDoesNotGrowWithTheBatch) {
  const auto groups = [](int sequences) {
    PlanBuilder builder(sequences * 16, 1);
    for (int s = 0; s < sequences; ++s) {
      std::vector<int64_t> own(16);
      std::iota(own.begin(), own.end(), s * 16);
      builder.AddCausal(s * 16, own);
      builder.AddPerHead(s * 16, 16, {own});
    }
    return builder.Build().groups.size();
  };
  EXPECT_EQ(groups(2), groups(64));
}

}  // namespace
}  // namespace palimpsest::attention
