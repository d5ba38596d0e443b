#include "services/inference/server/canary.h"

#include <algorithm>
#include <cmath>

#include "common/weights/canary.h"
#include "common/weights/durable_file.h"

namespace palimpsest::inference {

absl::StatusOr<std::optional<double>> CanaryError(const weights::VersionInfo& version,
                                                  Engine& engine) {
  const auto& files = version.manifest.files;
  if (std::none_of(files.begin(), files.end(),
                   [](const auto& file) { return file.name == weights::kCanaryName; }))
    return std::nullopt;
  ASSIGN_OR_RETURN(
      const std::string text,
      weights::ReadSmallFile(version.folder + "/" + weights::kCanaryName, weights::kMaxCanary));
  ASSIGN_OR_RETURN(const std::vector<weights::CanaryPrompt> prompts, weights::CanaryFromJson(text));
  double worst = 0;
  for (const weights::CanaryPrompt& prompt : prompts) {
    ASSIGN_OR_RETURN(const ScoreResult score,
                     engine.Score({.tokens = prompt.ids, .as_decoded = true}));
    for (size_t i = 0; i < prompt.logprobs.size(); ++i) {
      worst = std::max(worst, std::abs(double{score.logprobs[i]} - double{prompt.logprobs[i]}));
    }
  }
  return worst;
}

}  // namespace palimpsest::inference
