// The frozen-weights drift job: samples, learns and publishes at a learning rate that moves no bit,
// and asks whether what was sampled and what is recomputed part company over time. Once without
// events, once with them. One JSON object per line; exit code 1 when a slope's interval does not
// contain 0 or a mismatch is above what replay owes sampling. Usage: shadow_drift STEPS [ERRORS]:
// the interval is the slope -+ ERRORS (1.98) of its standard errors.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "tests/integration/shadow/two_daemons.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

constexpr double kFrozen = 1e-30;  // a learning rate
constexpr double kMaxAbs = 2e-4;   // nats

// Of a batch's sampled tokens, by all numbers of events.
struct Mismatch {
  double mean_abs = 0, max_abs = 0;  // nats
};

Mismatch Of(const v1::TrainBatchResponse& trained) {
  Mismatch all;
  double tokens = 0;
  for (const v1::MismatchBucket& bucket : trained.mismatch()) {
    const auto count = static_cast<double>(bucket.tokens());
    all.mean_abs += count * bucket.mean_abs();
    all.max_abs = std::max(all.max_abs, bucket.max_abs());
    tokens += count;
  }
  all.mean_abs /= tokens;
  return all;
}

// Least squares of y over 1, 2, .., at least three of them.
struct Slope {
  double value = 0, standard_error = 0;
};

Slope SlopeOf(const std::vector<double>& y) {
  const auto n = static_cast<double>(y.size());
  double mean = 0, xx = 0, xy = 0, rest = 0;
  for (double value : y) mean += value / n;
  const auto x = [&](size_t i) { return static_cast<double>(i) - (n - 1) / 2; };
  for (size_t i = 0; i < y.size(); ++i) {
    xx += x(i) * x(i);
    xy += x(i) * (y[i] - mean);
  }
  for (size_t i = 0; i < y.size(); ++i) rest += std::pow(y[i] - mean - xy / xx * x(i), 2);
  return {xy / xx, std::sqrt(rest / (n - 2) / xx)};
}

absl::StatusOr<bool> Holds(const char* name, const v1::ContextPolicy& policy, int steps,
                           double errors) {
  const weights::ScratchFolder scratch;
  TwoDaemons daemons(scratch.path());
  RETURN_IF_ERROR(daemons.StartTrainer({}));
  RETURN_IF_ERROR(daemons.StartInference());
  std::vector<double> means;
  double most = 0;
  int64_t version = 1, events = 0;
  for (int64_t step = 1; step <= steps; ++step) {
    ASSIGN_OR_RETURN(const std::vector<v1::Rollout> rollouts,
                     daemons.Generate("step-" + std::to_string(step), 4,
                                      static_cast<uint64_t>(step), policy, version));
    for (const v1::Rollout& rollout : rollouts) events += rollout.events_size();
    ASSIGN_OR_RETURN(const v1::TrainBatchResponse trained, daemons.Train(step, rollouts, kFrozen));
    if (trained.rejected_size() > 0) {
      return absl::InternalError(trained.rejected(0).message());
    }
    const Mismatch mismatch = Of(trained);
    means.push_back(mismatch.mean_abs);
    most = std::max(most, mismatch.max_abs);
    ASSIGN_OR_RETURN(version, daemons.Publish(step));
  }
  double mean = 0;
  for (double value : means) mean += value / steps;
  const Slope slope = SlopeOf(means);
  const double low = slope.value - errors * slope.standard_error;
  const double high = slope.value + errors * slope.standard_error;
  const bool holds = low <= 0 && high >= 0 && most <= kMaxAbs;
  std::printf(
      "{\"job\": \"drift\", \"what\": \"%s\", \"steps\": %d, \"versions\": %d, "
      "\"events_per_rollout\": %.2f, \"mean_abs\": %.3g, \"max_abs\": %.3g, \"slope\": %.2g, "
      "\"low\": %.2g, \"high\": %.2g, \"holds\": %s}\n",
      name, steps, static_cast<int>(version), static_cast<double>(events) / (4.0 * steps), mean,
      most, slope.value, low, high, holds ? "true" : "false");
  std::fflush(stdout);
  return holds;
}

int Main(int steps, double errors) {
  const std::pair<const char*, v1::ContextPolicy> jobs[] = {
      {"no events", {}},
      {"attention_matching", EventsOf(v1::COMPACTION_METHOD_ATTENTION_MATCHING)},
      {"evict", EventsOf(v1::COMPACTION_METHOD_EVICT)}};
  bool all = true;
  for (const auto& [name, policy] : jobs) {
    const absl::StatusOr<bool> holds = Holds(name, policy, steps, errors);
    if (!holds.ok()) std::fprintf(stderr, "%s: %s\n", name, holds.status().ToString().c_str());
    all = all && holds.value_or(false);
  }
  if (all) std::printf("long: no slope beyond %.3g standard errors in %d steps\n", errors, steps);
  return all ? 0 : 1;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 0;
  if (steps < 3) {
    std::fputs("usage: shadow_drift STEPS [ERRORS], at least 3 steps\n", stderr);
    return 2;
  }
  return palimpsest::Main(steps, argc > 2 ? std::atof(argv[2]) : 1.98);
}
