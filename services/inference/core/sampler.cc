#include "services/inference/core/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace palimpsest::inference {
namespace {

double LogSumExp(std::span<const double> x) {
  const double most = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double v : x) sum += std::exp(v - most);
  return most + std::log(sum);
}

void ApplyPenalties(const rl::SamplingParams& p, const std::map<int32_t, int>& counts,
                    const std::map<int32_t, int>& prompt, std::vector<double>& logits) {
  const auto repeat = [&](int32_t id) {
    logits[id] *= logits[id] > 0 ? 1 / p.repetition_penalty : p.repetition_penalty;
  };
  if (p.repetition_penalty != 1) {
    for (const auto& [id, count] : counts) repeat(id);
    for (const auto& [id, count] : prompt) {
      if (!counts.contains(id)) repeat(id);
    }
  }
  if (p.presence_penalty != 0 || p.frequency_penalty != 0) {
    for (const auto& [id, count] : counts)
      logits[id] -= p.presence_penalty + p.frequency_penalty * count;
  }
  for (const auto& [id, bias] : p.logit_bias) logits[id] += bias;
}

// Ids in the order of falling logit, ties to the lower id, cut by top_k, top_p and min_p.
std::vector<int32_t> Candidates(const rl::SamplingParams& p, const std::vector<double>& logits) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (p.top_k > 0 && p.top_k < static_cast<int64_t>(ids.size())) ids.resize(p.top_k);
  const double most = logits[ids.front()];
  double total = 0;
  for (int32_t id : ids) total += std::exp(logits[id] - most);
  size_t keep = 0;
  double mass = 0;  // the token that crosses top_p stays
  for (; keep < ids.size(); ++keep) {
    const double weight = std::exp(logits[ids[keep]] - most);
    if (mass >= p.top_p * total || weight < p.min_p) break;
    mass += weight;
  }
  ids.resize(std::max<size_t>(keep, 1));
  return ids;
}

Alternatives Likeliest(const std::vector<double>& logits, double normaliser, int32_t count) {
  Alternatives top;
  if (count == 0) return top;
  top.ids.resize(logits.size());
  std::iota(top.ids.begin(), top.ids.end(), 0);
  const auto last = top.ids.begin() + std::min<int64_t>(count, top.ids.size());
  std::partial_sort(top.ids.begin(), last, top.ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  top.ids.erase(last, top.ids.end());
  for (int32_t id : top.ids) top.logprobs.push_back(static_cast<float>(logits[id] - normaliser));
  return top;
}

}  // namespace

Draw SampleToken(std::span<const float> raw, const rl::SamplingParams& p,
                 const std::map<int32_t, int>& counts, const std::map<int32_t, int>& seen_in_prompt,
                 double u) {
  const bool greedy = p.temperature <= 0;
  const double inverse = greedy ? 1 : 1 / p.temperature;
  std::vector<double> recorded(raw.begin(), raw.end());
  for (double& x : recorded) x *= inverse;
  const double normaliser = LogSumExp(recorded);
  std::vector<double> logits(raw.begin(), raw.end());
  ApplyPenalties(p, counts, seen_in_prompt, logits);
  int32_t token = 0;
  if (greedy) {
    token = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  } else {
    for (double& x : logits) x *= inverse;
    std::vector<int32_t> ids;
    if (p.top_k > 0 || p.top_p < 1 || p.min_p > 0) {
      ids = Candidates(p, logits);
    } else {
      ids.resize(logits.size());
      std::iota(ids.begin(), ids.end(), 0);
    }
    double most = -std::numeric_limits<double>::infinity(), total = 0;
    for (int32_t id : ids) most = std::max(most, logits[id]);
    for (int32_t id : ids) total += std::exp(logits[id] - most);
    double left = u * total;
    token = ids.back();
    for (int32_t id : ids) {
      left -= std::exp(logits[id] - most);
      if (left < 0) {
        token = id;
        break;
      }
    }
  }
  return {.token = token,
          .logprob = static_cast<float>(recorded[token] - normaliser),
          .top = Likeliest(recorded, normaliser, p.top_logprobs.value_or(0))};
}

}  // namespace palimpsest::inference
