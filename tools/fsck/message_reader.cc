#include "tools/fsck/message_reader.h"

#include <algorithm>

#include "common/base/status.h"
#include "common/context/log.h"
#include "common/wire/rollout.h"

namespace palimpsest::tools {
namespace {

absl::StatusOr<rl::Rollout> Decode(std::string_view bytes) {
  v1::Rollout message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("its bytes are no rollout");
  }
  ASSIGN_OR_RETURN(rl::Rollout rollout, wire::FromProto(message));
  if (rollout.events.empty()) return rollout;
  RETURN_IF_ERROR(
      context::CheckLog(rollout.events.front().kept.shape(), rollout.tokens, rollout.events));
  return rollout;
}

}  // namespace

LedgerMessage ReadMessage(std::string_view bytes) {
  const absl::StatusOr<rl::Rollout> rollout = Decode(bytes);
  if (!rollout.ok()) return {.damage = std::string(rollout.status().message())};
  LedgerMessage message{.id = rollout->id,
                        .sample = rollout->sample,
                        .prompt_tokens = rollout->prompt_tokens,
                        .total_tokens = static_cast<int64_t>(rollout->tokens.size()),
                        .events = static_cast<int64_t>(rollout->events.size())};
  for (const rl::Span& span : rollout->spans) {
    const int64_t version = span.version.value();
    const bool first = &span == &rollout->spans.front();
    message.min_version = first ? version : std::min(message.min_version, version);
    message.max_version = std::max(message.max_version, version);
  }
  for (const rl::Origin origin : rollout->origins) {
    const bool sampled = origin == rl::Origin::kSampled;
    message.sampled_tokens += sampled;
    message.sampled_runs += sampled && !message.ends_sampled;
    message.ends_sampled = sampled;
  }
  return message;
}

}  // namespace palimpsest::tools
