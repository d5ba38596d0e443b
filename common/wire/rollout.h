#pragma once

#include <string_view>
#include <vector>

#include "common/rl/rollout.h"
#include "palimpsest/v1/rollout.pb.h"

// Rollouts: message <-> value. Rules as in context.h.
namespace palimpsest::wire {

absl::StatusOr<rl::Origin> FromProto(v1::TokenOrigin proto, std::string_view path);
absl::StatusOr<rl::FinishReason> FromProto(v1::FinishReason proto, std::string_view path);
absl::StatusOr<rl::Outcome> FromProto(v1::Outcome proto, std::string_view path);
v1::TokenOrigin ToProto(rl::Origin origin);
v1::FinishReason ToProto(rl::FinishReason reason);
v1::Outcome ToProto(rl::Outcome outcome);

absl::StatusOr<rl::Span> FromProto(const v1::ProvenanceSpan& proto, std::string_view path);
v1::ProvenanceSpan ToProto(const rl::Span& span);

// Events of one sequence: each legal in itself, `at` strictly rising, all of one shape.
absl::StatusOr<std::vector<context::Event>> EventsFromProto(
    const google::protobuf::RepeatedPtrField<v1::CompactionEvent>& protos,
    std::string_view path = "events");

// Besides the fields: arrays of one length, the prompt's origins first, log-probability 0 where
// nothing was sampled, every event before the end, spans that tile [prompt_tokens, tokens).
absl::StatusOr<rl::Rollout> FromProto(const v1::Rollout& proto, std::string_view path = "rollout");
v1::Rollout ToProto(const rl::Rollout& rollout);

}  // namespace palimpsest::wire
