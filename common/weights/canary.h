#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

// Canary prompts: what the writer of a version says that its weights say of a few fixed tokens, so
// that a reader can tell whether it serves what was trained.
namespace palimpsest::weights {

inline constexpr char kCanaryName[] = "canary.json";  // of a version
inline constexpr int64_t kMaxCanary = 1 << 20;        // bytes

struct CanaryPrompt {
  std::vector<int32_t> ids;     // >= 2
  std::vector<float> logprobs;  // [ids - 1] nats of the tokens after the first, at temperature 1
  bool operator==(const CanaryPrompt&) const = default;
};

std::string ToJson(std::span<const CanaryPrompt> prompts);
// kDataLoss for a text that holds none, or one with a log-probability that is not finite.
absl::StatusOr<std::vector<CanaryPrompt>> CanaryFromJson(std::string_view text);

}  // namespace palimpsest::weights
