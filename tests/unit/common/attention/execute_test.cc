#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numeric>

#include "common/attention/execute_torch.h"

namespace palimpsest::attention {
namespace {

// Two keys' worth of parts merged by log-sum-exp. With `constant_l` the merge weights are constants
// to autograd: what one gets by calling ready-made attention operators and merging their outputs.
at::Tensor MergeTwoParts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t cut,
                         bool constant_l) {
  at::Tensor o, l;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, cut}, {cut, k.size(0)}}) {
    const at::Tensor s = at::mm(q, k.slice(0, begin, end).t());
    at::Tensor l_part = at::logsumexp(s, 1);
    const at::Tensor o_part = at::mm(at::exp(s - l_part.unsqueeze(1)), v.slice(0, begin, end));
    if (constant_l) l_part = l_part.detach();
    if (!l.defined()) {
      o = o_part, l = l_part;
      continue;
    }
    const at::Tensor both = at::logaddexp(l, l_part);
    o = o * at::exp(l - both).unsqueeze(1) + o_part * at::exp(l_part - both).unsqueeze(1);
    l = both;
  }
  return o;
}

TEST(MergeNegativeControlTest, DifferentiatingTheMergeWithConstantLIsFarOff) {
  at::Tensor q = at::randn({6, 8}, at::kDouble).requires_grad_(true),
             k = at::randn({10, 8}, at::kDouble).requires_grad_(true);
  at::Tensor v = at::randn({10, 8}, at::kDouble).requires_grad_(true);
  const at::Tensor weight = at::randn({6, 8}, at::kDouble);
  const auto gradients = [&](const at::Tensor& o) {
    return torch::autograd::grad({(o * weight).sum()}, {q, k});
  };
  const auto exact = gradients(at::mm(at::softmax(at::mm(q, k.t()), 1), v));
  const auto merged = gradients(MergeTwoParts(q, k, v, 4, false));
  const auto wrong = gradients(MergeTwoParts(q, k, v, 4, true));
  for (int i = 0; i < 2; ++i) {
    EXPECT_LT((merged[i] - exact[i]).norm().item<double>() / exact[i].norm().item<double>(), 1e-12);
    EXPECT_GT((wrong[i] - exact[i]).norm().item<double>() / exact[i].norm().item<double>(), 0.05);
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
