#include "services/env/core/environment.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::env {

absl::StatusOr<Turn> Environment::Step(const Episode&, std::string_view) const {
  return absl::FailedPreconditionError(
      absl::StrFormat("%s: it is single-turn: scored, not stepped", name()));
}

absl::Status CheckDraw(std::string_view task, Split split, int64_t index) {
  if (std::find(std::begin(kSplits), std::end(kSplits), split) == std::end(kSplits)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: split=%d is none of train, sft, heldout", task, int{uint8_t(split)}));
  }
  if (index < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: index=%d is negative", task, index));
  }
  return absl::OkStatus();
}

absl::Status CheckEpisode(std::string_view task, const Episode& episode) {
  if (episode.task != task) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: episode.task=\"%s\" is another task", task, Quoted(episode.task)));
  }
  return CheckDraw(task, episode.split, episode.index);
}

absl::Status CheckNoise(std::string_view task, Noise noise) {
  if (!(noise.answer >= 0 && noise.answer <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: noise.answer=%g is outside [0, 1]", task, noise.answer));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> AnswerText(const Episode& episode, std::string_view key) {
  const auto found = episode.answer.find(std::string(key));
  if (found == episode.answer.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: episode.answer has no \"%s\"", episode.task, key));
  }
  return found->second;
}

std::string Quoted(std::string_view text, size_t limit) {
  const std::string_view head = text.substr(0, limit);
  return absl::CHexEscape({head.data(), head.size()}) + (text.size() > limit ? "..." : "");
}

}  // namespace palimpsest::env
