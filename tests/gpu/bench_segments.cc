#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>

#include "common/attention/cuda/segments.h"
#include "tests/gpu/bench.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::gpu_testing {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kD = 128;

// A group: N responses of R rows behind a prompt of P.
struct Group {
  int n, p, r;
  bool shared = true;  // else every response has a copy of the prompt

  int64_t rows() const { return shared ? p + int64_t{n} * r : int64_t{n} * (p + r); }
  double pairs() const {  // (query, key), of all heads
    const double prompt = 0.5 * p * p, own = double{1} * r * (p + 0.5 * r);
    return kHeads * (shared ? prompt + n * own : n * (prompt + own));
  }
  std::string name() const {
    return "(N, P, R) = (" + std::to_string(n) + ", " + std::to_string(p) + ", " +
           std::to_string(r) + ")";
  }
};

std::vector<int64_t> Range(int64_t begin, int64_t end) {
  std::vector<int64_t> all(end - begin);
  std::iota(all.begin(), all.end(), begin);
  return all;
}

// Of one layer.
attention::AttentionPlan PlanOf(const Group& group) {
  const int64_t rows = group.rows(), whole = group.p + group.r;
  attention::PlanBuilder builder(rows, kKvHeads);
  if (!group.shared) {
    for (int64_t begin = 0; begin < rows; begin += whole)
      builder.AddCausal(begin, Range(begin, begin + whole));
    return builder.Build();
  }
  builder.AddCausal(0, Range(0, group.p));
  for (int64_t begin = group.p; begin < rows; begin += group.r)
    builder.AddCausal(begin, Range(begin, begin + group.r));
  builder.AddShared(Range(group.p, rows), Range(0, group.p));
  return builder.Build();
}

void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

// `count` numbers: those of `block`, over and over.
template <class T>
struct Repeated : DeviceArray<T> {
  Repeated(size_t count, const std::vector<T>& block) : DeviceArray<T>(count) {
    size_t done = std::min(count, block.size());
    CheckCuda(cudaMemcpy(this->data(), block.data(), done * sizeof(T), cudaMemcpyHostToDevice),
              "fill");
    for (size_t more; done < count; done += more) {
      more = std::min(done, count - done);
      CheckCuda(
          cudaMemcpy(this->data() + done, this->data(), more * sizeof(T), cudaMemcpyDeviceToDevice),
          "fill");
    }
  }
};

// What the sums of a kernel group need to have one order.
struct SumOrder {
  attention::KeyUses uses;
  DeviceArray<int64_t> places, begins, entries;
  DeviceArray<float> scratch;
  SumOrder(const attention::KernelGroup& g, int64_t scratch_size)
      : uses(attention::UsesOf(g)),
        places(uses.places),
        begins(uses.begins),
        entries(uses.entries),
        scratch(scratch_size) {}
  attention::OrderedSums sums() const {
    return {.places = places.data(),
            .begins = begins.data(),
            .entries = entries.data(),
            .count = static_cast<int64_t>(uses.places.size()),
            .scratch = scratch.data()};
  }
  int64_t bytes() const {
    return sizeof(int64_t) * (2 * uses.places.size() + 1 + uses.entries.size());
  }
};

struct Carried {
  explicit Carried(const attention::KernelGroup& g)
      : rows(g.query_rows),
        slots(g.key_slots),
        offsets(g.causal_offset),
        view{.segments = static_cast<int>(g.segments),
             .kv_heads = static_cast<int>(g.kv_heads),
             .queries = static_cast<int>(g.queries),
             .keys = static_cast<int>(g.keys),
             .query_rows = rows.data(),
             .key_slots = slots.data(),
             .causal_offset = g.causal_offset.empty() ? nullptr : offsets.data()} {}
  DeviceArray<int64_t> rows, slots, offsets;
  attention::DeviceGroup view;
  std::optional<SumOrder> order;
};

// A layer's attention over a group, with all that its kernels read and write.
class Layer {
 public:
  explicit Layer(const Group& group)
      : rows_(group.rows()), plan_(PlanOf(group)), normals_(Normals<float>(rng_, 1 << 20, 1)) {
    for (const auto& g : plan_.groups) groups_.push_back(std::make_unique<Carried>(g));
  }

  // Without the order of sums.
  static int64_t Bytes(const Group& group, const attention::AttentionPlan& plan) {
    const int64_t per_row =
        kHeads * kD * (sizeof(BFloat16) + 3 * sizeof(float)) +    // q, o, dO, dQ
        kKvHeads * kD * 2 * (sizeof(BFloat16) + sizeof(float)) +  // k, v, theirs
        kHeads * 2 * sizeof(float);                               // lse, delta
    int64_t listed = 0;
    for (const auto& g : plan.groups)
      listed += std::ssize(g.query_rows) + std::ssize(g.key_slots) + std::ssize(g.causal_offset);
    return group.rows() * per_row + listed * static_cast<int64_t>(sizeof(int64_t));
  }

  // From now on dK and dV have one order of sums; returns the bytes that this takes.
  int64_t Order() {
    int64_t bytes = 0;
    for (size_t i = 0; i < groups_.size(); ++i) {
      const int64_t scratch = attention::OrderedScratch(groups_[i]->view, kD);
      groups_[i]->order.emplace(plan_.groups[i], scratch);
      bytes += scratch * static_cast<int64_t>(sizeof(float)) + groups_[i]->order->bytes();
    }
    return bytes;
  }

  cuda::Launched Forward(cudaStream_t stream) const {
    for (const auto& g : groups_) {
      const auto launched =
          attention::ForwardGroup(operands_, g->view, o_.data(), lse_.data(), stream);
      if (!launched.ok()) return launched;
    }
    return {};
  }
  cuda::Launched Backward(cudaStream_t stream) const {
    for (const auto& g : groups_) {
      const auto launched = attention::BackwardGroup(
          operands_, g->view, d_o_.data(), lse_.data(), delta_.data(),
          {d_q_.data(), d_k_.data(), d_v_.data(), nullptr, nullptr, nullptr},
          g->order ? g->order->sums() : attention::OrderedSums{}, stream);
      if (!launched.ok()) return launched;
    }
    return {};
  }

 private:
  std::vector<BFloat16> Narrowed() {
    std::vector<BFloat16> block(normals_.size());
    for (size_t i = 0; i < block.size(); ++i) Narrow(normals_[i], &block[i]);
    std::shuffle(block.begin(), block.end(), rng_);  // q, k and v are not each other
    return block;
  }

  std::mt19937 rng_{1};
  int64_t rows_;
  attention::AttentionPlan plan_;
  std::vector<float> normals_;
  std::vector<std::unique_ptr<Carried>> groups_;
  const size_t q_size_ = rows_ * kHeads * kD, k_size_ = rows_ * kKvHeads * kD;
  const Repeated<BFloat16> q_{q_size_, Narrowed()}, k_{k_size_, Narrowed()},
      v_{k_size_, Narrowed()};
  const Repeated<float> o_{q_size_, {0.f}}, d_o_{q_size_, normals_}, d_q_{q_size_, {0.f}},
      d_k_{k_size_, {0.f}}, d_v_{k_size_, {0.f}},
      lse_{static_cast<size_t>(rows_) * kHeads, {-INFINITY}},
      delta_{static_cast<size_t>(rows_) * kHeads, {0.f}};
  const attention::KernelOperands<BFloat16, float> operands_{.q = q_.data(),
                                                             .k = k_.data(),
                                                             .v = v_.data(),
                                                             .raw_slots = rows_,
                                                             .heads = kHeads,
                                                             .kv_heads = kKvHeads,
                                                             .d = kD,
                                                             .scale = 0.0884f};
};

void BenchShared(const Group& group) {
  Layer layer(group);
  const double pairs = group.pairs();
  const auto backward = [&](cudaStream_t stream) { return layer.Backward(stream); };
  PrintRow("segments forward, one layer, " + group.name(),
           MedianMilliseconds([&](cudaStream_t stream) { return layer.Forward(stream); }, 7), 0,
           4 * pairs * kD);
  PrintRow("segments backward, atomic sums, " + group.name(), MedianMilliseconds(backward, 7), 0,
           10 * pairs * kD);
  layer.Order();
  PrintRow("segments backward, ordered sums, " + group.name(), MedianMilliseconds(backward, 7), 0,
           10 * pairs * kD);
}

struct Cost {
  double forward = 0, backward = 0, ordered = 0;  // milliseconds; ordered: a backward pass as well
  int64_t bytes = 0, ordered_bytes = 0;           // ordered_bytes: more than bytes

  double both() const { return forward + backward; }
};

// False where the GPU's memory does not hold it; `cost` then has the bytes alone.
bool Measure(const Group& group, Cost& cost) {
  cost.bytes = Layer::Bytes(group, PlanOf(group));
  size_t free = 0, total = 0;
  CheckCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  if (cost.bytes > static_cast<int64_t>(free)) return false;
  Layer layer(group);
  cost.forward = OnceMilliseconds([&](cudaStream_t stream) { return layer.Forward(stream); });
  const auto backward = [&](cudaStream_t stream) { return layer.Backward(stream); };
  cost.backward = OnceMilliseconds(backward);
  if (!group.shared) return true;
  cost.ordered_bytes = layer.Order();
  cost.ordered = OnceMilliseconds(backward);
  return true;
}

}  // namespace

void BenchSegments() {
  BenchShared({8, 1024, 256});
  BenchShared({8, 512, 1024});
}

void BenchPrompts() {
  std::printf(
      "| N, P, R | shared: forward, backward, with ordered sums, ms | replicated: forward, "
      "backward, ms | times, without and with ordered sums | by pairs | GB: shared, ordered sums, "
      "replicated | share of memory |\n|---|---|---|---|---|---|---|\n");
  Cost warm;  // kernels are loaded
  Measure({2, 256, 64}, warm);
  for (const auto& [n, p] : {std::pair{28, 4096}, {28, 16384}, {16, 32768}, {16, 65536}}) {
    const Group shared{n, p, 2048, true}, replicated{n, p, 2048, false};
    Cost a, b;
    const bool fits = Measure(shared, a), both_fit = Measure(replicated, b) && fits;
    std::printf("| %d, %d, 2048 | ", n, p);
    if (fits) {
      std::printf("%.2f, %.2f, %.2f | ", a.forward, a.backward, a.ordered);
    } else {
      std::printf("does not fit | ");
    }
    if (both_fit) {
      std::printf("%.2f, %.2f | %.2f, %.2f | ", b.forward, b.backward, b.both() / a.both(),
                  b.both() / (a.forward + a.ordered));
    } else {
      std::printf("does not fit | - | ");
    }
    const auto gb = [](int64_t bytes) { return 1e-9 * static_cast<double>(bytes); };
    std::printf("%.2f | %.2f, %.2f, %.2f | %.3f |\n", replicated.pairs() / shared.pairs(),
                gb(a.bytes), gb(a.ordered_bytes), gb(b.bytes), gb(a.bytes) / gb(b.bytes));
    std::fflush(stdout);
  }
}

}  // namespace palimpsest::gpu_testing
