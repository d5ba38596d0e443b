#include "common/rl/objective.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

absl::Status NotNegative(const char* field, double value) {
  if (value >= 0 && std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s=%g is not >= 0", field, value));
}

std::vector<double> Differences(const ObjectiveInput& in) {
  std::vector<double> differences(in.logprobs.size());
  for (size_t t = 0; t < differences.size(); ++t) {
    differences[t] = in.logprobs[t] - in.recorded[t];
  }
  return differences;
}

void CountRatios(std::span<const double> differences, ObjectiveSums& sums) {
  sums.tokens = static_cast<int64_t>(differences.size());
  for (double difference : differences) {
    const double ratio = std::exp(difference);
    sums.ratio += ratio;
    sums.squared_ratio += ratio * ratio;
    sums.max_ratio = std::max(sums.max_ratio, ratio);
  }
}

void AddTokens(const ObjectiveOptions& options, const ObjectiveInput& in,
               std::span<const double> differences, const std::vector<bool>& counted,
               ObjectiveResult& result) {
  const double cap = FactorCap(options.correction);
  for (size_t t = 0; t < differences.size(); ++t) {
    if (!counted[t]) continue;
    const SurrogateToken token = {.logprob = in.logprobs[t],
                                  .recorded = in.recorded[t],
                                  .ratio = std::exp(differences[t]),
                                  .advantage = in.advantages[t],
                                  .weight = in.weights[t]};
    const SurrogateTerm term = Surrogate(options.surrogate, token, cap);
    result.loss += term.loss;
    result.of_logprobs[t] = term.gradient;
    result.sums.clipped += term.clipped;
    result.sums.truncated += token.ratio > cap;
  }
}

// Corrections that leave single tokens out do not come here (Validate).
void AddSequences(const ObjectiveOptions& options, const ObjectiveInput& in,
                  std::span<const double> differences, const std::vector<bool>& counted,
                  ObjectiveResult& result) {
  const double cap = FactorCap(options.correction);
  for (size_t s = 0; s + 1 < in.sequences.size(); ++s) {
    const auto begin = static_cast<size_t>(in.sequences[s]);
    const auto end = static_cast<size_t>(in.sequences[s + 1]);
    if (begin == end || !counted[begin]) continue;
    const auto length = static_cast<double>(end - begin);
    double mean = 0, push = 0;
    for (size_t t = begin; t < end; ++t) {
      mean += differences[t] / length;
      push += in.weights[t] * in.advantages[t];
    }
    const SurrogateToken whole = {.ratio = std::exp(mean), .advantage = push, .weight = 1};
    const SurrogateTerm term = Surrogate(options.surrogate, whole, cap);
    result.loss += term.loss;
    for (size_t t = begin; t < end; ++t) result.of_logprobs[t] = term.gradient / length;
    const auto tokens = static_cast<int64_t>(end - begin);
    if (term.clipped) result.sums.clipped += tokens;
    if (whole.ratio > cap) result.sums.truncated += tokens;
  }
}

void AddDrift(double coefficient, const ObjectiveInput& in, std::span<const double> differences,
              ObjectiveResult& result) {
  for (size_t t = 0; t < differences.size(); ++t) {
    const double weight = coefficient * in.weights[t];
    result.loss += weight * differences[t] * differences[t];
    result.of_logprobs[t] += 2 * weight * differences[t];
  }
}

struct Estimate {
  double value = 0;
  double derivative = 0;
};

Estimate KlAt(KlEstimator estimator, double x) {
  switch (estimator) {
    case KlEstimator::kK1:
      return {x, 1};
    case KlEstimator::kK2:
      return {x * x / 2, x};
    case KlEstimator::kK3:
      return {std::expm1(-x) + x, -std::expm1(-x)};
  }
  return {};
}

void AddReferenceKl(const KlOptions& options, const ObjectiveInput& in, ObjectiveResult& result) {
  for (size_t t = 0; t < in.reference.size(); ++t) {
    const Estimate kl = KlAt(options.estimator, in.logprobs[t] - in.reference[t]);
    const double weight = options.coefficient * in.weights[t];
    result.loss += weight * kl.value;
    result.of_logprobs[t] += weight * kl.derivative;
    result.sums.reference_kl += kl.value;
  }
}

void AddEntropy(double coefficient, const ObjectiveInput& in, ObjectiveResult& result) {
  for (size_t t = 0; t < in.entropies.size(); ++t) {
    const double weight = coefficient * in.weights[t];
    result.loss -= weight * in.entropies[t];
    result.of_entropies.push_back(-weight);
  }
}

}  // namespace

absl::Status Validate(const ObjectiveOptions& o) {
  RETURN_IF_ERROR(Validate(o.surrogate));
  RETURN_IF_ERROR(Validate(o.correction));
  RETURN_IF_ERROR(Validate(o.aggregation));
  RETURN_IF_ERROR(NotNegative("reference_kl.coefficient", o.reference_kl.coefficient));
  RETURN_IF_ERROR(NotNegative("drift", o.drift));
  RETURN_IF_ERROR(NotNegative("entropy", o.entropy));
  if (FactorCap(o.correction) < 1 + o.surrogate.clip_high) {
    return absl::InvalidArgumentError(
        absl::StrFormat("correction.upper=%g is less than 1 + clip_high=%g", o.correction.upper,
                        o.surrogate.clip_high));
  }
  if (o.surrogate.kind == SurrogateKind::kGspo && o.correction.kind == CorrectionKind::kIcePop) {
    return absl::InvalidArgumentError(
        "correction.kind=icepop leaves single tokens out, surrogate=gspo knows only sequences");
  }
  return absl::OkStatus();
}

void ObjectiveSums::Add(const ObjectiveSums& other) {
  tokens += other.tokens;
  ratio += other.ratio;
  squared_ratio += other.squared_ratio;
  max_ratio = std::max(max_ratio, other.max_ratio);
  clipped += other.clipped;
  truncated += other.truncated;
  masked += other.masked;
  reference_kl += other.reference_kl;
}

double ObjectiveSums::EffectiveShare() const {
  return squared_ratio > 0 ? ratio * ratio / (static_cast<double>(tokens) * squared_ratio) : 0;
}

ObjectiveResult Objective(const ObjectiveOptions& options, const ObjectiveInput& input) {
  ObjectiveResult result;
  result.of_logprobs.resize(input.logprobs.size(), 0.0);
  const std::vector<double> differences = Differences(input);
  const std::vector<bool> counted = CountedTokens(options.correction, differences, input.sequences);
  CountRatios(differences, result.sums);
  result.sums.masked = std::count(counted.begin(), counted.end(), false);
  if (options.surrogate.kind == SurrogateKind::kGspo) {
    AddSequences(options, input, differences, counted, result);
  } else {
    AddTokens(options, input, differences, counted, result);
  }
  if (options.drift > 0) AddDrift(options.drift, input, differences, result);
  if (options.reference_kl.coefficient > 0) AddReferenceKl(options.reference_kl, input, result);
  if (options.entropy > 0) AddEntropy(options.entropy, input, result);
  return result;
}

}  // namespace palimpsest::rl
