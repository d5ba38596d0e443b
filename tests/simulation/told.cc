#include "tests/simulation/told.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/random.h"

namespace palimpsest::simulation {
namespace {

using rl::Origin;

constexpr int64_t kDraws = 1'000'000;

absl::Status CheckSizes(const rl::Rollout& rollout) {
  const size_t tokens = rollout.tokens.size();
  if (rollout.origins.size() != tokens || rollout.logprobs.size() != tokens) {
    return absl::DataLossError(absl::StrFormat("%d tokens, %d origins, %d log-probabilities",
                                               tokens, rollout.origins.size(),
                                               rollout.logprobs.size()));
  }
  for (size_t i = 0; i < tokens; ++i) {
    const bool prompt = i < static_cast<size_t>(rollout.prompt_tokens);
    const bool sampled = rollout.origins[i] == Origin::kSampled;
    const float logprob = rollout.logprobs[i];
    if (prompt != (rollout.origins[i] == Origin::kPrompt) || !std::isfinite(logprob) ||
        (sampled ? logprob >= 0 : logprob != 0)) {
      return absl::DataLossError(absl::StrFormat("token %d: origin %d, log-probability %g", i,
                                                 static_cast<int>(rollout.origins[i]), logprob));
    }
  }
  return absl::OkStatus();
}

// Of each token; spans tile what stands behind the prompt.
absl::StatusOr<std::vector<int64_t>> Versions(const rl::Rollout& rollout) {
  std::vector<int64_t> versions(static_cast<size_t>(rollout.prompt_tokens), 0);
  for (const rl::Span& span : rollout.spans) {
    if (span.begin != std::ssize(versions) || span.end <= span.begin) {
      return absl::DataLossError(absl::StrFormat("a span [%d, %d) behind token %d", span.begin,
                                                 span.end, versions.size()));
    }
    if (&span != &rollout.spans.front() && span.kv_epoch < (&span - 1)->kv_epoch) {
      return absl::DataLossError(absl::StrFormat("kv epoch %d behind %d at token %d", span.kv_epoch,
                                                 (&span - 1)->kv_epoch, span.begin));
    }
    versions.resize(static_cast<size_t>(span.end), span.version.value());
  }
  if (versions.size() == rollout.tokens.size()) return versions;
  return absl::DataLossError(absl::StrFormat("%d tokens, of which %d have a version",
                                             rollout.tokens.size(), versions.size()));
}

absl::StatusOr<Response> Parse(const rl::Rollout& rollout, size_t begin, size_t end, int32_t turn,
                               const std::vector<int64_t>& versions) {
  const std::string text(rollout.tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                         rollout.tokens.begin() + static_cast<std::ptrdiff_t>(end));
  Response said;
  if (std::sscanf(text.c_str(), "%" SCNd64 ".%" SCNd32 ".%" SCNd64 "/%" SCNd64, &said.begun,
                  &said.sample, &said.draw, &said.ended) != 4) {
    return absl::DataLossError("a response that nobody has given: " + text);
  }
  const Response drawn = Respond(rollout.seed, said.sample, turn, said.begun, said.ended);
  if (drawn.text != text) {
    return absl::DataLossError(absl::StrFormat("the response %s, drawn as %s", text, drawn.text));
  }
  for (size_t i = begin; i < end; ++i) {
    const int64_t made_by = i - begin < static_cast<size_t>(drawn.slash) ? said.begun : said.ended;
    if (versions[i] != made_by) {
      return absl::DataLossError(
          absl::StrFormat("token %d says version %d and was made by %d", i, versions[i], made_by));
    }
  }
  return drawn;
}

}  // namespace

std::string PromptText(const orchestrator::Episode& episode) {
  return absl::StrFormat("?%s:%d:%d:", episode.task, static_cast<int>(episode.split),
                         episode.index);
}

Response Respond(uint64_t seed, int32_t sample, int32_t turn, int64_t begun, int64_t ended) {
  const uint64_t mixed = MixSeed({seed, static_cast<uint64_t>(sample), static_cast<uint64_t>(turn),
                                  static_cast<uint64_t>(begun)});
  Response said{.begun = begun,
                .ended = ended,
                .sample = sample,
                .draw = static_cast<int64_t>(mixed % kDraws)};
  said.text = absl::StrFormat("%d.%d.%d/", begun, sample, said.draw);
  said.slash = static_cast<int32_t>(said.text.size());
  said.text += std::to_string(ended);
  return said;
}

absl::StatusOr<Told> Listen(const rl::Rollout& rollout) {
  RETURN_IF_ERROR(CheckSizes(rollout));
  ASSIGN_OR_RETURN(const std::vector<int64_t> versions, Versions(rollout));
  Told told;
  const std::string prompt(rollout.tokens.begin(), rollout.tokens.begin() + rollout.prompt_tokens);
  const std::vector<std::string> parts = absl::StrSplit(prompt, ':');
  if (parts.size() != 4 || parts[0].substr(0, 1) != "?" ||
      !absl::SimpleAtoi(parts[1], &told.split) || !absl::SimpleAtoi(parts[2], &told.index)) {
    return absl::DataLossError("a prompt that nobody has given: " + prompt);
  }
  told.task = parts[0].substr(1);
  const auto& origins = rollout.origins;
  for (size_t begin = 0; begin < origins.size();) {
    size_t end = begin;
    while (end < origins.size() && origins[end] == origins[begin]) ++end;
    if (origins[begin] == Origin::kSampled) {
      ASSIGN_OR_RETURN(
          told.responses.emplace_back(),
          Parse(rollout, begin, end, static_cast<int32_t>(told.responses.size()), versions));
    }
    begin = end;
  }
  const size_t turns = told.task == kTalk ? kTurns : 1;
  if (told.responses.size() == turns) return told;
  return absl::DataLossError(
      absl::StrFormat("%d responses to %s, not %d", told.responses.size(), prompt, turns));
}

double Truth(const std::string& task, int split, int64_t index, const std::string& response) {
  const bool dull = split == static_cast<int>(orchestrator::Split::kTrain) && index % 5 == 4;
  const uint64_t mixed = MixSeed({Meaning(task), static_cast<uint64_t>(split),
                                  static_cast<uint64_t>(index), dull ? 0 : Meaning(response)});
  return static_cast<double>(1 + mixed % 4) / 4;
}

}  // namespace palimpsest::simulation
