#include "common/attention/cuda/segments.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <numeric>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::attention {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Error;
using gpu_testing::Normals;

// A prompt and responses that share it. Each response has two runs: rows before an event and rows
// after it, which see of the rows before only what each head keeps: some as they are, some compact.
struct Scene {
  int kv_heads, group, d, prompt, responses, before, after;
  int heads() const { return kv_heads * group; }
  int rows() const { return prompt + responses * (before + after); }
  int compact() const { return 5 * responses; }
};

using Seen = std::vector<std::vector<int64_t>>;  // [rows * kv_heads] slots

struct Drawn {
  AttentionPlan plan;
  Seen seen;
};

std::vector<int64_t> Range(int64_t begin, int64_t end) {
  std::vector<int64_t> all(end - begin);
  std::iota(all.begin(), all.end(), begin);
  return all;
}

Drawn Draw(std::mt19937& rng, const Scene& s) {
  PlanBuilder builder(s.rows(), s.kv_heads);
  Seen seen(s.rows() * s.kv_heads);
  const auto see = [&](int64_t row, int h, const std::vector<int64_t>& slots) {
    auto& list = seen[row * s.kv_heads + h];
    list.insert(list.end(), slots.begin(), slots.end());
  };
  const auto causal = [&](int64_t begin, int64_t count) {
    if (count == 0) return;
    builder.AddCausal(begin, Range(begin, begin + count));
    for (int64_t i = 0; i < count; ++i) {
      for (int h = 0; h < s.kv_heads; ++h) see(begin + i, h, Range(begin, begin + i + 1));
    }
  };
  causal(0, s.prompt);
  for (int r = 0; r < s.responses; ++r) {
    const int64_t begin = s.prompt + r * (s.before + s.after), cut = begin + s.before;
    causal(begin, s.before);
    causal(cut, s.after);
    std::vector<std::vector<int64_t>> kept(s.kv_heads);
    for (int h = 0; h < s.kv_heads; ++h) {
      for (int64_t slot = begin; slot < cut; ++slot) {
        if (rng() % 3 == 0) kept[h].push_back(slot);
      }
      for (int c = 0; c < 3 + h % 3; ++c) kept[h].push_back(s.rows() + 5 * r + c);
      for (int64_t row = cut; row < cut + s.after; ++row) see(row, h, kept[h]);
    }
    builder.AddPerHead(cut, s.after, kept);
  }
  const std::vector<int64_t> answers = Range(s.prompt, s.rows()), shared = Range(0, s.prompt);
  if (s.prompt > 0) builder.AddShared(answers, shared);
  for (const int64_t row : answers) {
    for (int h = 0; h < s.kv_heads; ++h) see(row, h, shared);
  }
  return {builder.Build(), std::move(seen)};
}

template <class Stored>
struct Inputs {
  Scene scene;
  std::vector<Stored> q, k, v, k_compact, v_compact;
  std::vector<float> bias, d_o;
};

template <class Stored>
Inputs<Stored> DrawInputs(std::mt19937& rng, const Scene& s) {
  const size_t raw = static_cast<size_t>(s.rows()) * s.kv_heads * s.d;
  const size_t compact = static_cast<size_t>(s.compact()) * s.kv_heads;
  return {.scene = s,
          .q = Normals<Stored>(rng, raw * s.group, 1.5),
          .k = Normals<Stored>(rng, raw, 1.5),
          .v = Normals<Stored>(rng, raw, 1),
          .k_compact = Normals<Stored>(rng, compact * s.d, 1.5),
          .v_compact = Normals<Stored>(rng, compact * s.d, 1),
          .bias = Normals<float>(rng, compact, 2),
          .d_o = Normals<float>(rng, raw * s.group, 1)};
}

struct Outputs {
  std::vector<double> o, lse, q, k, v, k_compact, v_compact, bias;
};

enum class Mistake { kNone, kNoBias, kLastSeenSlotMissing };

// softmax over what each row sees, and its gradients, in fp64: no parts, no merge.
template <class Stored>
Outputs Reference(const Inputs<Stored>& x, const Seen& seen, Mistake mistake = Mistake::kNone) {
  const Scene& s = x.scene;
  const int d = s.d;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  Outputs out;
  out.o.resize(x.q.size()), out.q.resize(x.q.size()), out.lse.resize(x.q.size() / d);
  out.k.resize(x.k.size()), out.v.resize(x.v.size());
  out.k_compact.resize(x.k_compact.size()), out.v_compact.resize(x.v_compact.size());
  out.bias.resize(x.bias.size());
  for (int64_t row = 0; row < s.rows(); ++row) {
    for (int head = 0; head < s.heads(); ++head) {
      const int h = head / s.group;
      std::vector<int64_t> slots = seen[row * s.kv_heads + h];
      if (mistake == Mistake::kLastSeenSlotMissing && slots.size() > 1) slots.pop_back();
      const int64_t at = row * s.heads() + head;
      const auto place = [&](int64_t slot) {
        return (slot < s.rows() ? slot : slot - s.rows()) * s.kv_heads + h;
      };
      std::vector<double> p(slots.size());
      double most = -INFINITY, sum = 0, delta = 0;
      for (size_t j = 0; j < slots.size(); ++j) {
        const bool raw = slots[j] < s.rows();
        const auto& keys = raw ? x.k : x.k_compact;
        for (int c = 0; c < d; ++c)
          p[j] += scale * Widen(x.q[at * d + c]) * Widen(keys[place(slots[j]) * d + c]);
        if (!raw && mistake != Mistake::kNoBias) p[j] += x.bias[place(slots[j])];
        most = std::max(most, p[j]);
      }
      for (double& w : p) sum += w = std::exp(w - most);
      out.lse[at] = most + std::log(sum);
      for (size_t j = 0; j < slots.size(); ++j) {
        const auto& values = slots[j] < s.rows() ? x.v : x.v_compact;
        p[j] /= sum;
        for (int c = 0; c < d; ++c)
          out.o[at * d + c] += p[j] * Widen(values[place(slots[j]) * d + c]);
      }
      for (int c = 0; c < d; ++c) delta += x.d_o[at * d + c] * out.o[at * d + c];
      for (size_t j = 0; j < slots.size(); ++j) {
        const bool raw = slots[j] < s.rows();
        const int64_t to = place(slots[j]);
        double pull = -delta;
        for (int c = 0; c < d; ++c)
          pull += x.d_o[at * d + c] * Widen((raw ? x.v : x.v_compact)[to * d + c]);
        pull *= p[j];
        for (int c = 0; c < d; ++c) {
          (raw ? out.v : out.v_compact)[to * d + c] += p[j] * x.d_o[at * d + c];
          (raw ? out.k : out.k_compact)[to * d + c] += scale * pull * Widen(x.q[at * d + c]);
          out.q[at * d + c] += scale * pull * Widen((raw ? x.k : x.k_compact)[to * d + c]);
        }
        if (!raw) out.bias[to] += pull;
      }
    }
  }
  return out;
}

// A plan's groups in device memory.
struct Carried {
  explicit Carried(const KernelGroup& g)
      : rows(g.query_rows),
        slots(g.key_slots),
        offsets(g.causal_offset),
        uses(UsesOf(g)),
        places(uses.places),
        begins(uses.begins),
        entries(uses.entries),
        view{.segments = static_cast<int>(g.segments),
             .kv_heads = static_cast<int>(g.kv_heads),
             .queries = static_cast<int>(g.queries),
             .keys = static_cast<int>(g.keys),
             .query_rows = rows.data(),
             .key_slots = slots.data(),
             .causal_offset = g.causal_offset.empty() ? nullptr : offsets.data()} {}
  DeviceArray<int64_t> rows, slots, offsets;
  KeyUses uses;
  DeviceArray<int64_t> places, begins, entries;
  DeviceGroup view;
};

std::vector<double> Wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

template <class Stored>
Outputs Run(const Inputs<Stored>& x, const AttentionPlan& plan, bool ordered) {
  const Scene& s = x.scene;
  const DeviceArray<Stored> q(x.q), k(x.k), v(x.v), k_compact(x.k_compact), v_compact(x.v_compact);
  const DeviceArray<float> bias(x.bias), d_o(x.d_o);
  const auto zeros = [](size_t n) { return std::vector<float>(n, 0.0f); };
  const DeviceArray<float> o(zeros(x.q.size())), d_q(zeros(x.q.size())), d_k(zeros(x.k.size())),
      d_v(zeros(x.v.size())), d_k_compact(zeros(x.k_compact.size())),
      d_v_compact(zeros(x.v_compact.size())), d_bias(zeros(x.bias.size()));
  const size_t places = x.q.size() / s.d;
  const DeviceArray<float> lse(std::vector<float>(places, -INFINITY));
  const KernelOperands<Stored, float> operands{.q = q.data(),
                                               .k = k.data(),
                                               .v = v.data(),
                                               .k_compact = k_compact.data(),
                                               .v_compact = v_compact.data(),
                                               .bias = bias.data(),
                                               .raw_slots = s.rows(),
                                               .heads = s.heads(),
                                               .kv_heads = s.kv_heads,
                                               .d = s.d,
                                               .scale = 1 / std::sqrt(static_cast<float>(s.d))};
  std::vector<std::unique_ptr<Carried>> groups;
  for (const KernelGroup& g : plan.groups) groups.push_back(std::make_unique<Carried>(g));
  for (const auto& g : groups) {
    const cuda::Launched launched = ForwardGroup(operands, g->view, o.data(), lse.data(), nullptr);
    EXPECT_TRUE(launched.ok()) << launched.error;
  }
  const std::vector<float> mixed = o.Read();
  std::vector<float> delta(places, 0);
  for (size_t i = 0; i < mixed.size(); ++i) delta[i / s.d] += mixed[i] * x.d_o[i];
  const DeviceArray<float> delta_there(delta);
  for (const auto& g : groups) {
    const DeviceArray<float> scratch(OrderedScratch(g->view, s.d));
    const OrderedSums sums{.places = g->places.data(),
                           .begins = g->begins.data(),
                           .entries = g->entries.data(),
                           .count = static_cast<int64_t>(g->uses.places.size()),
                           .scratch = scratch.data()};
    const cuda::Launched launched = BackwardGroup(
        operands, g->view, d_o.data(), lse.data(), delta_there.data(),
        {d_q.data(), d_k.data(), d_v.data(), d_k_compact.data(), d_v_compact.data(), d_bias.data()},
        ordered ? sums : OrderedSums{}, nullptr);
    EXPECT_TRUE(launched.ok()) << launched.error;
    scratch.Read();
  }
  return {
      Wide(mixed),      Wide(lse.Read()),         Wide(d_q.Read()),         Wide(d_k.Read()),
      Wide(d_v.Read()), Wide(d_k_compact.Read()), Wide(d_v_compact.Read()), Wide(d_bias.Read())};
}

constexpr double kTolerance = 1e-5;  // everything is summed in fp32 and stays it

template <class Stored>
class SegmentsTest : public testing::Test {};
using Types = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(SegmentsTest, Types);

TYPED_TEST(SegmentsTest, ForwardAndBackwardEqualTheDenseSoftmaxInFp64) {
  std::mt19937 rng(1);
  for (const Scene& scene : {Scene{1, 1, 64, 1, 1, 1, 1}, Scene{2, 2, 64, 37, 3, 21, 40},
                             Scene{1, 3, 128, 5, 2, 66, 30}, Scene{2, 4, 64, 70, 2, 3, 65}}) {
    const Inputs<TypeParam> x = DrawInputs<TypeParam>(rng, scene);
    const Drawn drawn = Draw(rng, scene);
    const Outputs right = Reference(x, drawn.seen);
    for (const bool ordered : {true, false}) {
      const Outputs got = Run(x, drawn.plan, ordered);
      const auto near = [&](std::vector<double> Outputs::*field, const char* name) {
        EXPECT_LT(Error(got.*field, right.*field), kTolerance) << name << ", d " << scene.d;
      };
      near(&Outputs::o, "o"), near(&Outputs::lse, "lse"), near(&Outputs::q, "dq");
      near(&Outputs::k, "dk"), near(&Outputs::v, "dv"), near(&Outputs::k_compact, "dk'");
      near(&Outputs::v_compact, "dv'"), near(&Outputs::bias, "dbias");
      for (const Mistake mistake : {Mistake::kNoBias, Mistake::kLastSeenSlotMissing}) {
        const Outputs wrong = Reference(x, drawn.seen, mistake);
        EXPECT_GT(Error(got.o, wrong.o), 100 * kTolerance);
        EXPECT_GT(Error(got.q, wrong.q), 100 * kTolerance);
      }
    }
  }
}

TYPED_TEST(SegmentsTest, OrderedSumsGiveTheSameBitsInEveryOrderOfThreads) {
  std::mt19937 rng(2);
  const Scene scene{2, 2, 64, 33, 2, 20, 20};
  const Inputs<TypeParam> x = DrawInputs<TypeParam>(rng, scene);
  const Drawn drawn = Draw(rng, scene);
  const Outputs once = Run(x, drawn.plan, true);
  for (const uint64_t seed : {1, 2}) {
    gpu_testing::ShuffleThreads(seed);
    const Outputs again = Run(x, drawn.plan, true);
    EXPECT_EQ(once.o, again.o);
    EXPECT_EQ(once.q, again.q);
    EXPECT_EQ(once.k, again.k);
    EXPECT_EQ(once.v, again.v);
    EXPECT_EQ(once.bias, again.bias);
  }
  gpu_testing::ShuffleThreads(0);
}

TEST(KeyUsesTest, ListsTheEntriesOfEachSlotAndHeadInOrder) {
  const KernelGroup group{.segments = 2,
                          .kv_heads = 2,
                          .queries = 1,
                          .keys = 2,
                          .query_rows = {0, 1},
                          .key_slots = {7, 3, 7, -1, 3, 7, 9, -1},
                          .causal_offset = {}};
  const KeyUses uses = UsesOf(group);
  EXPECT_EQ(uses.places, (std::vector<int64_t>{6, 14, 15, 19}));
  EXPECT_EQ(uses.begins, (std::vector<int64_t>{0, 2, 4, 5, 6}));
  EXPECT_EQ(uses.entries, (std::vector<int64_t>{1, 4, 0, 5, 2, 6}));
}

}  // namespace
}  // namespace palimpsest::attention
