#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/context/policy.h"
#include "common/rl/rollout.h"
#include "common/rl/view_report.h"

// What the trainer is given and what it answers. Plain values.
namespace palimpsest::trainer {

struct RlItem {
  rl::Rollout rollout;
  double advantage = 0;  // of all its sampled tokens
  double weight = 1;     // of its loss, >= 0
  rl::Outcome outcome = rl::Outcome::kOk;
};

// One demonstration.
struct SftItem {
  std::string id;
  std::vector<int32_t> ids;        // [T]
  std::vector<bool> loss_mask;     // [T] tokens that are learnt; the first never is
  int32_t prompt_tokens = 0;       // P, 1 to T
  context::ContextPolicy context;  // its events are drafted, kept positions chosen in the replay
  std::vector<int32_t> turn_begins = {};  // of several turns: where steps began, in [P, T), rising
  double weight = 1;                      // >= 0
};

enum class RejectReason : uint8_t {
  kLog = 1,
  kDigest = 2,
  kMalformed = 3,
  kVersion = 4,
  kStale = 5,
  kTruncatedSampling = 6,
  kTooLong = 7,
};
inline constexpr std::array kAllRejectReasons = {
    RejectReason::kLog,     RejectReason::kDigest, RejectReason::kMalformed,
    RejectReason::kVersion, RejectReason::kStale,  RejectReason::kTruncatedSampling,
    RejectReason::kTooLong};
std::string_view Name(RejectReason reason);  // "log", "digest", ...

struct Rejected {
  std::string id;
  RejectReason reason = RejectReason::kMalformed;
  std::string message;  // names field and value
};

// Items are either all rl or all sft.
struct Batch {
  std::string id;    // 1 to 128 bytes
  int64_t step = 0;  // that it becomes
  std::vector<RlItem> rl = {};
  std::vector<SftItem> sft = {};
  std::vector<Rejected> unreadable = {};     // items that could not even be read
  std::optional<double> learning_rate = {};  // absent: the schedule's
  std::string source = {};  // the bytes it was read from, where other ranks are to read them too
};

// Recomputed minus sampled log-probability over the loss tokens that saw `events` events.
struct MismatchBucket {
  int32_t events = 0;
  int64_t tokens = 0;
  double kl = 0;        // mean of r - 1 - log r, r = exp(recomputed - sampled); nats
  double mean_abs = 0;  // nats
  double max_abs = 0;   // nats
};

// Means and shares over the loss tokens.
struct RatioStats {
  double mean = 0;
  double max = 0;
  double clip_share = 0;
  double truncated_share = 0;
  double effective_sample_size = 0;
  double masked_share = 0;  // not counted by the correction
};

struct StepResult {
  int64_t step = 0;
  std::string batch_id;
  double loss = 0;
  double grad_norm = 0;  // before clipping; not finite when that is why the step was skipped
  double learning_rate = 0;
  int64_t tokens = 0;  // rows computed
  int64_t loss_tokens = 0;
  double entropy = 0;                         // mean over loss tokens, nats
  std::vector<MismatchBucket> mismatch = {};  // ascending by events; empty for SFT
  std::optional<RatioStats> ratio = {};       // absent for SFT
  std::optional<double> reference_kl = {};    // mean over loss tokens, nats; absent without one
  double distilled = 0;                       // part of the loss that the distillation is
  std::optional<rl::ViewReport> views = {};   // where dense and shadow were compared
  std::vector<Rejected> rejected = {};
  std::vector<std::pair<std::string, double>> phases = {};  // seconds
  bool skipped = false;  // nothing to learn from, or not finite: the weights did not change
  int64_t peak_bytes = 0;
};

}  // namespace palimpsest::trainer
