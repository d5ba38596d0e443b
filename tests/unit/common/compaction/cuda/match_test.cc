#include "common/compaction/cuda/match.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"
#include "tests/unit/common/compaction/slow_match.h"

namespace palimpsest::compaction {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Error;
using gpu_testing::Normals;
using testing::Matrix;
using testing::Row;
using testing::SlowProblem;

constexpr int kPageSlots = 16;

struct Head {
  int first, width, keep, queries;
};

// Heads of one sequence each, whose windows begin anywhere in their shuffled pages. Slots outside
// of windows are NaN.
template <class Stored>
struct Case {
  int kv_heads = 2, group = 2, d = 64, w = 0, n = 0, t = 0, table_pages = 0;
  std::vector<Head> heads;
  std::vector<int32_t> tables;
  std::vector<Stored> k, v, q;  // [N, Hk, d] twice, [B, positions, Hk * group, d]
  std::vector<float> bias;

  int problems() const { return static_cast<int>(heads.size()); }
  int kv_head(int problem) const { return problem % kv_heads; }
  int positions() const { return (n + group - 1) / group; }
  int64_t Place(int problem, int slot) const {
    const int at = heads[problem].first + slot;
    const int64_t page = tables[problem * table_pages + at / kPageSlots];
    return (page * kPageSlots + at % kPageSlots) * kv_heads + kv_head(problem);
  }
  int64_t Query(int problem, int i) const {
    return ((int64_t{problem} * positions() + i / group) * kv_heads + kv_head(problem)) * group +
           i % group;
  }
};

template <class Stored>
Case<Stored> Draw(std::mt19937& rng, int group, int d, const std::vector<Head>& heads) {
  Case<Stored> c{.group = group, .d = d, .heads = heads};
  int last = 0;
  for (const Head& head : heads) {
    c.w = std::max(c.w, head.width), c.n = std::max(c.n, head.queries);
    c.t = std::max(c.t, head.keep), last = std::max(last, head.first + head.width);
  }
  c.table_pages = last / kPageSlots + 1;
  c.tables.resize(c.problems() * c.table_pages);
  std::iota(c.tables.begin(), c.tables.end(), 0);
  std::shuffle(c.tables.begin(), c.tables.end(), rng);
  const size_t places = c.tables.size() * kPageSlots * c.kv_heads;
  c.k.resize(places * d), c.v.resize(places * d);
  c.bias.assign(places, std::nanf(""));
  for (size_t i = 0; i < c.k.size(); ++i) Narrow(c.bias[0], &c.k[i]), Narrow(c.bias[0], &c.v[i]);
  for (int p = 0; p < c.problems(); ++p) {
    for (int j = 0; j < heads[p].width; ++j) {
      const int64_t at = c.Place(p, j);
      const auto key = Normals<Stored>(rng, d, 1.5), value = Normals<Stored>(rng, d, 1);
      std::copy(key.begin(), key.end(), c.k.begin() + at * d);
      std::copy(value.begin(), value.end(), c.v.begin() + at * d);
      c.bias[at] = Normals<float>(rng, 1, 1)[0];
    }
  }
  c.q = Normals<Stored>(rng, c.Query(c.problems(), 0) * d, 1.5);
  return c;
}

struct Result {
  std::vector<int32_t> kept, solves;
  std::vector<float> bias;
  std::vector<double> values, residuals, mass_errors, output_errors;
};

template <class Stored>
Result Run(const Case<Stored>& c, const std::vector<int32_t>* forced = nullptr,
           bool evicts = false) {
  const DeviceArray<Stored> k(c.k), v(c.v), q(c.q);
  const DeviceArray<float> bias(c.bias);
  const DeviceArray<int32_t> tables(c.tables);
  std::vector<WindowHead<Stored>> windows;
  std::vector<HeadFacts> facts;
  for (int p = 0; p < c.problems(); ++p) {
    const Head& head = c.heads[p];
    windows.push_back({.k = k.data() + c.kv_head(p) * c.d,
                       .v = v.data() + c.kv_head(p) * c.d,
                       .bias = bias.data() + c.kv_head(p),
                       .table = tables.data() + p * c.table_pages,
                       .first = head.first,
                       .q = q.data() + c.Query(p, 0) * c.d});
    facts.push_back({.width = head.width, .keep = head.keep, .queries = head.queries});
  }
  const DeviceArray<WindowHead<Stored>> windows_there(windows);
  const DeviceArray<HeadFacts> facts_there(facts);
  const size_t slots = static_cast<size_t>(c.problems()) * c.t;
  const DeviceArray<char> workspace(EventWorkspaceBytes(c.problems(), c.w, c.n, c.t, c.d));
  const DeviceArray<int32_t> kept(forced ? *forced : std::vector<int32_t>(slots, -7));
  const DeviceArray<int32_t> solves(c.problems());
  const DeviceArray<float> new_bias(slots);
  const DeviceArray<Stored> values(slots * c.d);
  const DeviceArray<double> residuals(c.problems()), mass(c.problems()), output(c.problems());
  const EventBatch<Stored> batch{.windows = {.windows = windows_there.data(),
                                             .heads = facts_there.data(),
                                             .problems = c.problems(),
                                             .w = c.w,
                                             .n = c.n,
                                             .t = c.t,
                                             .d = c.d,
                                             .page_slots = kPageSlots,
                                             .slot_stride = int64_t{c.kv_heads} * c.d,
                                             .bias_stride = c.kv_heads,
                                             .group = c.group,
                                             .position_stride = int64_t{c.kv_heads} * c.group * c.d,
                                             .scale = 1 / std::sqrt(static_cast<float>(c.d))},
                                 .forced = forced != nullptr,
                                 .workspace = workspace.data(),
                                 .kept = kept.data(),
                                 .bias = new_bias.data(),
                                 .values = values.data(),
                                 .kkt_residuals = residuals.data(),
                                 .solves = solves.data(),
                                 .mass_errors = mass.data(),
                                 .output_errors = output.data()};
  const cuda::Launched launched = evicts ? EvictSlots(batch, nullptr) : MatchEvents(batch, nullptr);
  EXPECT_TRUE(launched.ok()) << launched.error;
  workspace.Read();
  return {kept.Read(),      solves.Read(), new_bias.Read(), gpu_testing::Widened(values.Read()),
          residuals.Read(), mass.Read(),   output.Read()};
}

template <class Stored>
SlowProblem Slow(const Case<Stored>& c, int p, const std::vector<int32_t>& kept) {
  SlowProblem s{.scale = 1 / std::sqrt(static_cast<double>(c.d)),
                .lower = std::exp(-7),
                .upper = std::exp(7)};
  const auto row = [&](const std::vector<Stored>& x, int64_t at) {
    Row wide(c.d);
    for (int i = 0; i < c.d; ++i) wide[i] = Widen(x[at * c.d + i]);
    return wide;
  };
  for (int j = 0; j < c.heads[p].width; ++j) {
    s.keys.push_back(row(c.k, c.Place(p, j)));
    s.values.push_back(row(c.v, c.Place(p, j)));
    s.bias.push_back(c.bias[c.Place(p, j)]);
  }
  for (int i = 0; i < c.heads[p].queries; ++i) s.queries.push_back(row(c.q, c.Query(p, i)));
  s.fitted.assign(c.heads[p].queries, 1);
  s.kept.assign(kept.begin() + p * c.t, kept.begin() + p * c.t + c.heads[p].keep);
  return s;
}

struct Errors {
  double bias, values;
};
template <class Stored>
Errors Against(const Case<Stored>& c, int p, const Result& result, const testing::SlowFit& fit) {
  std::vector<double> bias, values, slow_values;
  for (int i = 0; i < c.heads[p].keep; ++i) {
    const size_t at = static_cast<size_t>(p) * c.t + i;
    bias.push_back(result.bias[at]);
    for (int x = 0; x < c.d; ++x) {
      values.push_back(result.values[at * c.d + x]);
      slow_values.push_back(fit.values[i][x]);
    }
  }
  return {Error(bias, fit.bias), Error(values, slow_values)};
}

template <class Stored>
class MatchTest : public ::testing::Test {};
using Types = ::testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(MatchTest, Types);

// Scores and softmax are fp32, the rest fp64: with mu = lambda = 1e-2 the systems carry their
// rounding on a hundredfold. bf16 values are rounded at the end.
constexpr double kBiasTolerance = 1e-4;
template <class Stored>
constexpr double kValueTolerance = sizeof(Stored) == 2 ? 3e-3 : 1e-4;

// One slot; a page and one; windows that begin inside a page; fewer queries than kept slots.
const std::vector<Head> kHeads = {
    {0, 1, 1, 6}, {5, 17, 4, 30}, {16, 64, 32, 3}, {3, 130, 33, 70}, {1, 80, 80, 64}};

TYPED_TEST(MatchTest, EqualsSection4InFp64) {
  std::mt19937 rng(1);
  for (const auto& [group, d] : {std::pair{2, 64}, std::pair{4, 128}, std::pair{1, 32}}) {
    const auto c = Draw<TypeParam>(rng, group, d, kHeads);
    const Result result = Run(c);
    for (int p = 0; p < c.problems(); ++p) {
      const SlowProblem problem = Slow(c, p, result.kept);
      const testing::SlowFit fit = testing::SlowMatch(problem);
      const Errors right = Against(c, p, result, fit);
      EXPECT_NEAR(result.mass_errors[p], fit.mass_error, 1e-4) << "problem " << p;
      EXPECT_NEAR(result.output_errors[p], fit.output_error, 1e-4) << "problem " << p;
      EXPECT_LT(right.bias, kBiasTolerance) << "problem " << p << ", d " << d;
      EXPECT_LT(right.values, kValueTolerance<TypeParam>) << "problem " << p << ", d " << d;
      EXPECT_LE(result.residuals[p], 1e-8);
      if (c.heads[p].width == 1) continue;
      SlowProblem without_bias = problem;
      std::fill(without_bias.bias.begin(), without_bias.bias.end(), 0.0);
      SlowProblem shifted = problem;
      std::rotate(shifted.values.begin(), shifted.values.begin() + 1, shifted.values.end());
      const Errors no_bias = Against(c, p, result, testing::SlowMatch(without_bias));
      EXPECT_GT(no_bias.bias, 100 * kBiasTolerance);
      EXPECT_GT(Against(c, p, result, testing::SlowMatch(shifted)).values, 0.1);
    }
  }
}

TYPED_TEST(MatchTest, KeepsTheSlotsWithTheLargestRootMeanSquare) {
  std::mt19937 rng(2);
  const auto c = Draw<TypeParam>(rng, 4, 64, kHeads);
  const Result result = Run(c);
  for (int p = 0; p < c.problems(); ++p) {
    const SlowProblem problem = Slow(c, p, result.kept);
    Row squares(c.heads[p].width, 0.0);
    for (const Row& row : testing::SlowSoftmax(testing::SlowScores(problem))) {
      for (size_t j = 0; j < row.size(); ++j) squares[j] += row[j] * row[j];
    }
    std::vector<uint8_t> is_kept(squares.size(), 0);
    for (size_t i = 0; i < problem.kept.size(); ++i) {
      if (i > 0) {
        EXPECT_LT(problem.kept[i - 1], problem.kept[i]);
      }
      is_kept[problem.kept[i]] = 1;
    }
    double least = INFINITY, most = 0;
    for (size_t j = 0; j < squares.size(); ++j) {
      if (is_kept[j]) least = std::min(least, squares[j]);
      if (!is_kept[j]) most = std::max(most, squares[j]);
    }
    EXPECT_GE(least, most * (1 - 1e-5)) << "problem " << p;
    for (int i = c.heads[p].keep; i < c.t; ++i) EXPECT_EQ(result.kept[p * c.t + i], -1);
  }
}

TYPED_TEST(MatchTest, BreaksTiesTowardsTheLowerSlotAndStaysFiniteForEqualKeys) {
  std::mt19937 rng(3);
  auto c = Draw<TypeParam>(rng, 2, 64, {{2, 40, 10, 12}});
  for (int j = 0; j < 40; ++j) {
    std::copy_n(c.k.begin() + c.Place(0, 0) * c.d, c.d, c.k.begin() + c.Place(0, j) * c.d);
    c.bias[c.Place(0, j)] = 0;
  }
  const Result result = Run(c);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(result.kept[i], i);
    EXPECT_TRUE(std::isfinite(result.bias[i]));
  }
  for (const double v : result.values) EXPECT_TRUE(std::isfinite(v));
}

// What an eviction that listens loses: the mass of what goes, and the output of what stays alone.
TYPED_TEST(MatchTest, MeasuresEvictions) {
  std::mt19937 rng(6);
  const auto c = Draw<TypeParam>(rng, 2, 64, {{5, 40, 9, 20}, {0, 70, 70, 12}, {2, 30, 0, 8}});
  const Result result = Run(c, nullptr, true);
  EXPECT_EQ(result.kept, Run(c).kept);
  for (int p = 0; p < c.problems(); ++p) {
    const SlowProblem problem = Slow(c, p, result.kept);
    const Matrix a = testing::SlowSoftmax(testing::SlowScores(problem));
    double lost = 0, difference = 0, norm = 0;
    for (const Row& row : a) {
      double stays = 0;
      for (const int j : problem.kept) stays += row[j];
      lost += std::abs(stays - 1) / static_cast<double>(a.size());
      for (int x = 0; x < c.d; ++x) {
        double all = 0, left = 0;
        for (size_t j = 0; j < row.size(); ++j) all += row[j] * problem.values[j][x];
        for (const int j : problem.kept) left += row[j] / stays * problem.values[j][x];
        difference += (left - all) * (left - all);
        norm += all * all;
      }
    }
    EXPECT_NEAR(result.mass_errors[p], lost, 1e-4) << "problem " << p;
    EXPECT_NEAR(result.output_errors[p], std::sqrt(difference / norm), 1e-4) << "problem " << p;
    EXPECT_EQ(lost > 1e-3, p != 1);
  }
}

TYPED_TEST(MatchTest, EvictsWhereNobodyListens) {
  std::mt19937 rng(4);
  const auto c = Draw<TypeParam>(rng, 2, 64, {{4, 20, 6, 0}, {4, 20, 6, 8}});
  const std::vector<int32_t> forced = {1, 3, 5, 7, 9, 19, 0, 1, 2, 3, 4, 5};
  const Result result = Run(c, &forced);
  for (int i = 0; i < 6; ++i) {
    const int64_t at = c.Place(0, forced[i]);
    EXPECT_EQ(result.bias[i], c.bias[at]);
    for (int x = 0; x < c.d; ++x)
      EXPECT_FLOAT_EQ(result.values[i * c.d + x], Widen(c.v[at * c.d + x]));
  }
  EXPECT_LT(Against(c, 1, result, testing::SlowMatch(Slow(c, 1, forced))).bias, kBiasTolerance);
}

TYPED_TEST(MatchTest, GivesAHeadTheSameBitsInEveryOrderOfThreads) {
  std::mt19937 rng(5);
  const auto c = Draw<TypeParam>(rng, 2, 64, {{7, 70, 20, 40}, {0, 33, 33, 20}});
  const Result result = Run(c);
  for (const uint64_t seed : {1, 2}) {
    gpu_testing::ShuffleThreads(seed);
    const Result again = Run(c);
    EXPECT_EQ(result.kept, again.kept);
    for (int p = 0; p < 2; ++p) {
      for (int i = 0; i < c.heads[p].keep; ++i)
        EXPECT_EQ(result.bias[p * c.t + i], again.bias[p * c.t + i]);
    }
  }
  gpu_testing::ShuffleThreads(0);
}

}  // namespace
}  // namespace palimpsest::compaction
