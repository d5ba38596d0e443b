#include "services/inference/core/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/base/lanes.h"

namespace palimpsest::inference {
namespace {

// Weights of the vocabulary are summed up in blocks of ids: fp32 within one, double over them.
constexpr size_t kBlock = 512;

float Largest(std::span<const float> logits) {
  float most = -std::numeric_limits<float>::infinity();
  size_t i = 0;
  if (logits.size() >= kLanes) {
    Vector high = LoadVector(logits.data());
    for (; i + kLanes <= logits.size(); i += kLanes) {
      const Vector x = LoadVector(logits.data() + i);
      high = x > high ? x : high;
    }
    for (int lane = 0; lane < kLanes; ++lane) most = std::max(most, high[lane]);
  }
  for (; i < logits.size(); ++i) most = std::max(most, logits[i]);
  return most;
}

// e^(x - max) of each logit, and their sums: the softmax before its division. One per thread, which
// keeps its memory: a vocabulary's worth of fresh pages at each draw costs more than the sums.
struct Weights {
  std::vector<float> of;       // [V]
  std::vector<double> blocks;  // sums over kBlock ids
  double total = 0;
  float most = 0;  // the largest logit
};

void Weigh(std::span<const float> logits, Weights& w) {
  w.most = Largest(logits);
  w.of.resize(logits.size());
  w.blocks.clear();
  w.total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits.size());
    Vector sum = {};
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const Vector e = ExpNegative(LoadVector(logits.data() + i) - w.most);
      StoreVector(e, w.of.data() + i);
      sum += e;
    }
    if (i < end) {  // the last few of the vocabulary
      float rest[kLanes];
      std::fill(rest, rest + kLanes, -std::numeric_limits<float>::infinity());
      std::copy(logits.begin() + static_cast<std::ptrdiff_t>(i), logits.end(), rest);
      const Vector e = ExpNegative(LoadVector(rest) - w.most);
      StoreVector(e, rest);
      std::copy_n(rest, end - i, w.of.data() + i);
      sum += e;
    }
    w.blocks.push_back(Sum(sum));
    w.total += w.blocks.back();
  }
}

bool Moved(const rl::SamplingParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0 ||
         !p.logit_bias.empty();
}

void ApplyPenalties(const rl::SamplingParams& p, const std::map<int32_t, int>& counts,
                    const std::map<int32_t, int>& prompt, std::vector<float>& logits) {
  const auto repeat = [&](int32_t id) {
    const auto penalty = static_cast<float>(p.repetition_penalty);
    logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
  };
  if (p.repetition_penalty != 1) {
    for (const auto& [id, count] : counts) repeat(id);
    for (const auto& [id, count] : prompt) {
      if (!counts.contains(id)) repeat(id);
    }
  }
  for (const auto& [id, count] : counts)
    logits[id] -= static_cast<float>(p.presence_penalty + p.frequency_penalty * count);
  for (const auto& [id, bias] : p.logit_bias) logits[id] += static_cast<float>(bias);
}

// Ids in the order of falling weight, ties to the lower id, cut by top_k, top_p and min_p. Only as
// many are sorted as are kept.
std::vector<int32_t> Candidates(const rl::SamplingParams& p, const Weights& w) {
  std::vector<int32_t> heap(w.of.size());
  std::iota(heap.begin(), heap.end(), 0);
  const auto later = [&](int32_t a, int32_t b) {
    return w.of[a] != w.of[b] ? w.of[a] < w.of[b] : a > b;
  };
  const size_t most = p.top_k > 0 ? std::min<size_t>(p.top_k, heap.size()) : heap.size();
  double total = w.total;  // of the top_k
  if (most < heap.size()) {
    std::partial_sort(heap.begin(), heap.begin() + static_cast<std::ptrdiff_t>(most), heap.end(),
                      [&](int32_t a, int32_t b) { return later(b, a); });
    heap.resize(most);
    total = 0;
    for (int32_t id : heap) total += w.of[id];
  }
  std::make_heap(heap.begin(), heap.end(), later);
  std::vector<int32_t> kept;
  double mass = 0;  // the token that crosses top_p stays
  while (!heap.empty()) {
    const int32_t id = heap.front();
    if (!kept.empty() && (mass >= p.top_p * total || w.of[id] < p.min_p)) break;
    kept.push_back(id);
    mass += w.of[id];
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
  }
  return kept;
}

// The first id at which the sum of weights, in order, passes u of the total.
int32_t DrawAmong(std::span<const int32_t> ids, const Weights& w, double u) {
  double total = 0;
  for (int32_t id : ids) total += w.of[id];
  double left = u * total;
  for (int32_t id : ids) {
    left -= w.of[id];
    if (left < 0) return id;
  }
  return ids.back();
}
int32_t DrawAmongAll(const Weights& w, double u) {
  double left = u * w.total;
  size_t block = 0;
  for (; block + 1 < w.blocks.size() && left >= w.blocks[block]; ++block) left -= w.blocks[block];
  const size_t end = std::min((block + 1) * kBlock, w.of.size());
  size_t last = block * kBlock;  // that has a weight: what rounding may leave over goes there
  for (size_t id = block * kBlock; id < end; ++id) {
    if (w.of[id] > 0) last = id;
    left -= w.of[id];
    if (left < 0) return static_cast<int32_t>(id);
  }
  return static_cast<int32_t>(last);
}

Alternatives Likeliest(std::span<const float> logits, double normaliser, int32_t count) {
  Alternatives top;
  if (count == 0) return top;
  top.ids.resize(logits.size());
  std::iota(top.ids.begin(), top.ids.end(), 0);
  const auto last = top.ids.begin() + std::min<int64_t>(count, std::ssize(top.ids));
  std::partial_sort(top.ids.begin(), last, top.ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  top.ids.erase(last, top.ids.end());
  for (int32_t id : top.ids) top.logprobs.push_back(static_cast<float>(logits[id] - normaliser));
  return top;
}

// The first of the likeliest; 0 where a logit is not a number (the draw's log-probability tells).
int32_t Greedy(std::span<const float> logits, float most) {
  const auto at = std::find(logits.begin(), logits.end(), most);
  return at == logits.end() ? 0 : static_cast<int32_t>(at - logits.begin());
}

// raw / temperature, in `scaled` unless it is raw itself.
std::span<const float> AtTemperature(std::span<const float> raw, double temperature,
                                     std::vector<float>& scaled) {
  if (temperature <= 0 || temperature == 1) return raw;
  scaled.assign(raw.begin(), raw.end());
  const auto inverse = static_cast<float>(1 / temperature);
  for (float& x : scaled) x *= inverse;
  return scaled;
}

}  // namespace

Draw WeighToken(std::span<const float> raw, int32_t token, double temperature, int32_t top) {
  std::vector<float> scaled;
  const std::span<const float> logits = AtTemperature(raw, temperature, scaled);
  thread_local Weights weights;
  Weigh(logits, weights);
  const double normaliser = weights.most + std::log(weights.total);
  return {.token = token,
          .logprob = static_cast<float>(logits[token] - normaliser),
          .top = Likeliest(logits, normaliser, top)};
}

Draw SampleToken(std::span<const float> raw, const rl::SamplingParams& p,
                 const std::map<int32_t, int>& counts, const std::map<int32_t, int>& seen_in_prompt,
                 double u) {
  const bool greedy = p.temperature <= 0;
  const float inverse = greedy ? 1 : static_cast<float>(1 / p.temperature);
  std::vector<float> scaled;
  const std::span<const float> recorded = AtTemperature(raw, p.temperature, scaled);
  thread_local Weights weights;
  Weigh(recorded, weights);
  const double normaliser = weights.most + std::log(weights.total);
  std::vector<float> moved;
  if (Moved(p)) {
    moved.assign(raw.begin(), raw.end());
    ApplyPenalties(p, counts, seen_in_prompt, moved);
    for (float& x : moved) x *= inverse;
    if (!greedy) Weigh(moved, weights);
  }
  int32_t token = 0;
  if (greedy) {
    token = moved.empty() ? Greedy(recorded, weights.most) : Greedy(moved, Largest(moved));
  } else if (p.top_k > 0 || p.top_p < 1 || p.min_p > 0) {
    token = DrawAmong(Candidates(p, weights), weights, u);
  } else {
    token = DrawAmongAll(weights, u);
  }
  return {.token = token,
          .logprob = static_cast<float>(recorded[token] - normaliser),
          .top = Likeliest(recorded, normaliser, p.top_logprobs.value_or(0))};
}

}  // namespace palimpsest::inference
