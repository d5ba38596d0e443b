#include "common/rl/surrogate.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

SurrogateTerm Clipped(const SurrogateOptions& o, const SurrogateToken& t, double cap) {
  const double push = t.weight * t.advantage;
  const bool too_high = t.advantage > 0 && t.ratio > 1 + o.clip_high;
  const bool too_low = t.advantage < 0 && t.ratio < 1 - o.clip_low;
  if (too_high || too_low) {
    return {.loss = -push * (too_high ? 1 + o.clip_high : 1 - o.clip_low), .clipped = true};
  }
  const double factor = std::min(t.ratio, cap);
  return {.loss = -push * factor, .gradient = -push * factor};
}

SurrogateTerm ClippedWeight(const SurrogateOptions& o, const SurrogateToken& t, double cap) {
  const double held = std::clamp(t.ratio, 1 - o.clip_low, 1 + o.clip_high);
  const double push = t.weight * t.advantage * std::min(held, cap);
  return {.loss = -push * t.logprob, .gradient = -push, .clipped = held != t.ratio};
}

SurrogateTerm Moved(const SurrogateOptions& o, const SurrogateToken& t, double cap) {
  const double move = std::exp(t.logprob) - std::exp(t.recorded);
  const bool any = o.kind == SurrogateKind::kIpo;
  const bool too_high = move > o.clip_high && (any || t.advantage > 0);
  const bool too_low = move < -o.clip_low && (any || t.advantage < 0);
  if (too_high || too_low) return {.clipped = true};
  const double push = t.weight * t.advantage * std::min(t.ratio, cap);
  return {.loss = -push, .gradient = -push};
}

}  // namespace

absl::Status Validate(const SurrogateOptions& o) {
  if (!(o.clip_low >= 0 && o.clip_low <= 1)) {
    return absl::InvalidArgumentError(absl::StrFormat("clip_low=%g is not in [0, 1]", o.clip_low));
  }
  if (!(o.clip_high >= 0 && std::isfinite(o.clip_high))) {
    return absl::InvalidArgumentError(absl::StrFormat("clip_high=%g is not >= 0", o.clip_high));
  }
  return absl::OkStatus();
}

SurrogateTerm Surrogate(const SurrogateOptions& options, const SurrogateToken& token, double cap) {
  switch (options.kind) {
    case SurrogateKind::kClipped:
    case SurrogateKind::kGspo:
      return Clipped(options, token, cap);
    case SurrogateKind::kCispo:
      return ClippedWeight(options, token, cap);
    case SurrogateKind::kIpo:
    case SurrogateKind::kDppo:
      return Moved(options, token, cap);
  }
  return {};
}

}  // namespace palimpsest::rl
