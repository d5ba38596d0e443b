#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/rl/objective.h"

// The equations of common/rl/objective.h once more, token by token and slowly, with what is a
// constant of the gradient taken at other log-probabilities than the rest: then the derivative of
// this value is the gradient that the objective promises, cut factors and masks included.
namespace palimpsest::rl {

// What an implementation could get wrong; each must show.
enum class Mistake {
  kNone,
  kMaskIgnored,
  kCapIgnored,
  kSequenceRatioOfTokens,  // gspo by the ratios of single tokens
  kWeightMoves,            // cispo's weight is differentiated too
  kSignIgnored,            // dppo masks moves that the advantage does not ask for
};

class SlowObjective {
 public:
  SlowObjective(const ObjectiveOptions& options, const ObjectiveInput& frozen,
                Mistake mistake = Mistake::kNone)
      : o_(options),
        in_(frozen),
        frozen_(frozen.logprobs.begin(), frozen.logprobs.end()),
        mistake_(mistake) {}

  // Of other log-probabilities and entropies, [T] each.
  double Loss(const std::vector<double>& n, const std::vector<double>& entropies) const {
    double loss = 0;
    for (size_t s = 0; s + 1 < in_.sequences.size(); ++s) {
      const auto begin = static_cast<size_t>(in_.sequences[s]);
      const auto end = static_cast<size_t>(in_.sequences[s + 1]);
      if (o_.surrogate.kind == SurrogateKind::kGspo &&
          mistake_ != Mistake::kSequenceRatioOfTokens) {
        loss += OfSequence(n, begin, end);
      } else {
        for (size_t t = begin; t < end; ++t) loss += OfToken(n, t, begin, end);
      }
    }
    for (size_t t = 0; t < n.size(); ++t) {
      const double d = n[t] - in_.recorded[t];
      loss += in_.weights[t] * o_.drift * d * d;
      if (o_.reference_kl.coefficient > 0) {
        const double x = n[t] - in_.reference[t];
        const double k[] = {x, x * x / 2, std::exp(-x) - 1 + x};
        loss += in_.weights[t] * o_.reference_kl.coefficient *
                k[static_cast<int>(o_.reference_kl.estimator)];
      }
      if (o_.entropy > 0) loss -= in_.weights[t] * o_.entropy * entropies[t];
    }
    return loss;
  }

 private:
  double Difference(const std::vector<double>& n, size_t t) const { return n[t] - in_.recorded[t]; }
  double MeanRatio(const std::vector<double>& n, size_t begin, size_t end) const {
    double sum = 0;
    for (size_t t = begin; t < end; ++t) sum += Difference(n, t);
    return std::exp(sum / static_cast<double>(end - begin));
  }
  double Cap() const {
    const bool cut = o_.correction.kind == CorrectionKind::kTis ||
                     o_.correction.kind == CorrectionKind::kSparseRl;
    return cut && mistake_ != Mistake::kCapIgnored ? o_.correction.upper
                                                   : std::numeric_limits<double>::infinity();
  }
  bool Inside(double ratio) const {
    return ratio >= o_.correction.lower && ratio <= o_.correction.upper;
  }
  bool Counts(size_t t, size_t begin, size_t end) const {
    if (mistake_ == Mistake::kMaskIgnored) return true;
    switch (o_.correction.kind) {
      case CorrectionKind::kNone:
      case CorrectionKind::kTis:
        return true;
      case CorrectionKind::kIcePop:
        return Inside(std::exp(Difference(frozen_, t)));
      case CorrectionKind::kSequenceMask:
        for (size_t u = begin; u < end; ++u) {
          if (!Inside(std::exp(Difference(frozen_, u)))) return false;
        }
        return true;
      case CorrectionKind::kGeometricMask:
        return Inside(MeanRatio(frozen_, begin, end));
      case CorrectionKind::kSparseRl: {
        double least = std::numeric_limits<double>::infinity();
        for (size_t u = begin; u < end; ++u) least = std::min(least, Difference(frozen_, u));
        return std::exp(least) >= o_.correction.lower;
      }
    }
    return false;
  }

  // -push times the ratio, clipped and cut where it was when frozen.
  double Pushed(double push, double sign, double ratio, double frozen) const {
    if (sign > 0 && frozen > 1 + o_.surrogate.clip_high)
      return -push * (1 + o_.surrogate.clip_high);
    if (sign < 0 && frozen < 1 - o_.surrogate.clip_low) return -push * (1 - o_.surrogate.clip_low);
    return Cut(push, ratio, frozen);
  }
  double Cut(double push, double ratio, double frozen) const {
    return frozen > Cap() ? -push * Cap() * (1 + std::log(ratio / frozen)) : -push * ratio;
  }

  double OfToken(const std::vector<double>& n, size_t t, size_t begin, size_t end) const {
    if (!Counts(t, begin, end)) return 0;
    const double push = in_.weights[t] * in_.advantages[t];
    const double ratio = std::exp(Difference(n, t)), frozen = std::exp(Difference(frozen_, t));
    const double low = o_.surrogate.clip_low, high = o_.surrogate.clip_high;
    switch (o_.surrogate.kind) {
      case SurrogateKind::kClipped:
      case SurrogateKind::kGspo:
        return Pushed(push, in_.advantages[t], ratio, frozen);
      case SurrogateKind::kCispo: {
        const double weight = mistake_ == Mistake::kWeightMoves ? ratio : frozen;
        return -push * std::min(std::clamp(weight, 1 - low, 1 + high), Cap()) * n[t];
      }
      case SurrogateKind::kIpo:
      case SurrogateKind::kDppo: {
        const double move = std::exp(frozen_[t]) - std::exp(in_.recorded[t]);
        const bool both =
            o_.surrogate.kind == SurrogateKind::kIpo || mistake_ == Mistake::kSignIgnored;
        if (move > high && (both || in_.advantages[t] > 0)) return 0;
        if (move < -low && (both || in_.advantages[t] < 0)) return 0;
        return Cut(push, ratio, frozen);
      }
    }
    return 0;
  }

  double OfSequence(const std::vector<double>& n, size_t begin, size_t end) const {
    if (!Counts(begin, begin, end)) return 0;
    double push = 0;
    for (size_t t = begin; t < end; ++t) push += in_.weights[t] * in_.advantages[t];
    return Pushed(push, push, MeanRatio(n, begin, end), MeanRatio(frozen_, begin, end));
  }

  ObjectiveOptions o_;
  ObjectiveInput in_;
  std::vector<double> frozen_;
  Mistake mistake_;
};

}  // namespace palimpsest::rl
