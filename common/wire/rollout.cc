#include "common/wire/rollout.h"

#include <cmath>

#include "common/wire/context.h"
#include "common/wire/field.h"

namespace palimpsest::wire {
namespace {

constexpr size_t kMaxIdBytes = 256;

// Enums of both sides carry the same numbers, 1 to `last`.
template <class Value, class Proto>
absl::StatusOr<Value> EnumUpTo(Value last, Proto proto, std::string_view path) {
  const int number = static_cast<int>(proto);
  if (number < 1 || number > static_cast<int>(last)) {
    return Refused(path, absl::StrFormat("%d is not a known value", number));
  }
  return static_cast<Value>(number);
}

absl::Status CheckLength(std::string_view path, int got, int tokens) {
  if (got == tokens) return absl::OkStatus();
  return Refused(path, absl::StrFormat("%d entries for %d tokens", got, tokens));
}

absl::Status ReadTokens(const v1::Rollout& proto, std::string_view path, rl::Rollout& rollout) {
  const int tokens = proto.tokens_size();
  if (proto.prompt_tokens() < 1 || proto.prompt_tokens() > tokens) {
    return Refused(Field(path, "prompt_tokens"),
                   absl::StrFormat("%d is not in [1, %d]", proto.prompt_tokens(), tokens));
  }
  RETURN_IF_ERROR(CheckLength(Field(path, "origins"), proto.origins_size(), tokens));
  RETURN_IF_ERROR(CheckLength(Field(path, "logprobs"), proto.logprobs_size(), tokens));
  for (int i = 0; i < tokens; ++i) {
    if (proto.tokens(i) < 0) {
      return Refused(Item(Field(path, "tokens"), i),
                     absl::StrFormat("%d is not >= 0", proto.tokens(i)));
    }
  }
  rollout.prompt_tokens = proto.prompt_tokens();
  rollout.tokens.assign(proto.tokens().begin(), proto.tokens().end());
  rollout.logprobs.assign(proto.logprobs().begin(), proto.logprobs().end());
  return absl::OkStatus();
}

// After ReadTokens: lengths agree.
absl::Status ReadOrigins(const v1::Rollout& proto, std::string_view path, rl::Rollout& rollout) {
  rollout.origins.reserve(proto.origins_size());
  for (int i = 0; i < proto.origins_size(); ++i) {
    if (proto.origins(i) < v1::TOKEN_ORIGIN_PROMPT ||
        proto.origins(i) > v1::TOKEN_ORIGIN_INJECTED) {
      return Refused(Item(Field(path, "origins"), i),
                     absl::StrFormat("%d is not a known value", proto.origins(i)));
    }
    const auto origin = static_cast<rl::Origin>(proto.origins(i));
    if ((origin == rl::Origin::kPrompt) != (i < rollout.prompt_tokens)) {
      return Refused(Item(Field(path, "origins"), i),
                     absl::StrFormat("%d does not fit prompt_tokens=%d", proto.origins(i),
                                     rollout.prompt_tokens));
    }
    const float logprob = rollout.logprobs[i];
    if (!std::isfinite(logprob)) {
      return Refused(Item(Field(path, "logprobs"), i),
                     absl::StrFormat("%g is not finite", logprob));
    }
    if (origin != rl::Origin::kSampled && logprob != 0) {
      return Refused(Item(Field(path, "logprobs"), i),
                     absl::StrFormat("%g for a token that was not sampled", logprob));
    }
    rollout.origins.push_back(origin);
  }
  return absl::OkStatus();
}

absl::Status ReadSpans(const v1::Rollout& proto, std::string_view path, rl::Rollout& rollout) {
  const std::string field = Field(path, "spans");
  int32_t covered = rollout.prompt_tokens;
  for (int i = 0; i < proto.spans_size(); ++i) {
    ASSIGN_OR_RETURN(const rl::Span span, FromProto(proto.spans(i), Item(field, i)));
    if (span.begin != covered) {
      return Refused(Item(field, i),
                     absl::StrFormat("begins at %d, not at %d", span.begin, covered));
    }
    covered = span.end;
    rollout.spans.push_back(span);
  }
  const auto tokens = static_cast<int32_t>(rollout.tokens.size());
  if (covered != tokens) {
    return Refused(field, absl::StrFormat("end at %d, not at %d tokens", covered, tokens));
  }
  return absl::OkStatus();
}

absl::Status ReadEvents(const v1::Rollout& proto, std::string_view path, rl::Rollout& rollout) {
  const std::string field = Field(path, "events");
  ASSIGN_OR_RETURN(rollout.events, EventsFromProto(proto.events(), field));
  const auto tokens = static_cast<int32_t>(rollout.tokens.size());
  if (!rollout.events.empty() && rollout.events.back().at >= tokens) {
    return Refused(
        Field(Item(field, proto.events_size() - 1), "at"),
        absl::StrFormat("%d is not before the end of %d tokens", rollout.events.back().at, tokens));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<rl::Origin> FromProto(v1::TokenOrigin proto, std::string_view path) {
  return EnumUpTo(rl::Origin::kInjected, proto, path);
}
absl::StatusOr<rl::FinishReason> FromProto(v1::FinishReason proto, std::string_view path) {
  return EnumUpTo(rl::FinishReason::kFailed, proto, path);
}
absl::StatusOr<rl::Outcome> FromProto(v1::Outcome proto, std::string_view path) {
  return EnumUpTo(rl::Outcome::kCancelled, proto, path);
}
v1::TokenOrigin ToProto(rl::Origin origin) { return static_cast<v1::TokenOrigin>(origin); }
v1::FinishReason ToProto(rl::FinishReason r) { return static_cast<v1::FinishReason>(r); }
v1::Outcome ToProto(rl::Outcome outcome) { return static_cast<v1::Outcome>(outcome); }

absl::StatusOr<rl::Span> FromProto(const v1::ProvenanceSpan& proto, std::string_view path) {
  const rl::Span span{proto.begin(), proto.end(), PolicyVersion(proto.policy_version()),
                      proto.kv_epoch()};
  if (span.begin < 0 || span.end <= span.begin) {
    return Refused(path, absl::StrFormat("[%d, %d) is not a run of tokens", span.begin, span.end));
  }
  if (span.version.value() < 0) {
    return Refused(Field(path, "policy_version"),
                   absl::StrFormat("%d is not >= 0", span.version.value()));
  }
  if (span.kv_epoch < 0) {
    return Refused(Field(path, "kv_epoch"), absl::StrFormat("%d is not >= 0", span.kv_epoch));
  }
  return span;
}

v1::ProvenanceSpan ToProto(const rl::Span& span) {
  v1::ProvenanceSpan proto;
  proto.set_begin(span.begin);
  proto.set_end(span.end);
  proto.set_policy_version(span.version.value());
  proto.set_kv_epoch(span.kv_epoch);
  return proto;
}

absl::StatusOr<std::vector<context::Event>> EventsFromProto(
    const google::protobuf::RepeatedPtrField<v1::CompactionEvent>& protos, std::string_view path) {
  std::vector<context::Event> events;
  for (int i = 0; i < protos.size(); ++i) {
    const std::string item = Item(path, i);
    ASSIGN_OR_RETURN(context::Event event, FromProto(protos[i], item));
    if (i > 0 && event.at <= events.back().at) {
      return Refused(Field(item, "at"),
                     absl::StrFormat("%d does not rise above %d", event.at, events.back().at));
    }
    if (i > 0 && event.kept.shape() != events.back().kept.shape()) {
      return Refused(Field(item, "kept"),
                     absl::StrFormat("%d layers x %d KV heads differ from the event before",
                                     event.kept.shape().layers, event.kept.shape().kv_heads));
    }
    events.push_back(std::move(event));
  }
  return events;
}

absl::StatusOr<rl::Rollout> FromProto(const v1::Rollout& proto, std::string_view path) {
  rl::Rollout rollout;
  rollout.id = proto.id();
  if (rollout.id.empty() || rollout.id.size() > kMaxIdBytes) {
    return Refused(Field(path, "id"),
                   absl::StrFormat("has %d bytes, not 1 to %d", rollout.id.size(), kMaxIdBytes));
  }
  RETURN_IF_ERROR(ReadTokens(proto, path, rollout));
  RETURN_IF_ERROR(ReadOrigins(proto, path, rollout));
  RETURN_IF_ERROR(ReadEvents(proto, path, rollout));
  RETURN_IF_ERROR(ReadSpans(proto, path, rollout));
  ASSIGN_OR_RETURN(rollout.finish_reason,
                   FromProto(proto.finish_reason(), Field(path, "finish_reason")));
  rollout.seed = proto.seed();
  rollout.sample = proto.sample();
  if (rollout.sample < 0) {
    return Refused(Field(path, "sample"), absl::StrFormat("%d is not >= 0", rollout.sample));
  }
  rollout.temperature = proto.temperature();
  RETURN_IF_ERROR(CheckAmount(Field(path, "temperature"), rollout.temperature));
  if (rollout.temperature == 0) return Refused(Field(path, "temperature"), "0 is not > 0");
  rollout.greedy = proto.greedy();
  rollout.truncated_sampling = proto.truncated_sampling();
  rollout.seconds = proto.duration_seconds();
  RETURN_IF_ERROR(CheckAmount(Field(path, "duration_seconds"), rollout.seconds));
  return rollout;
}

v1::Rollout ToProto(const rl::Rollout& rollout) {
  v1::Rollout proto;
  proto.set_id(rollout.id);
  proto.mutable_tokens()->Assign(rollout.tokens.begin(), rollout.tokens.end());
  proto.set_prompt_tokens(rollout.prompt_tokens);
  for (rl::Origin origin : rollout.origins) proto.add_origins(ToProto(origin));
  proto.mutable_logprobs()->Assign(rollout.logprobs.begin(), rollout.logprobs.end());
  for (const context::Event& event : rollout.events) *proto.add_events() = ToProto(event);
  for (const rl::Span& span : rollout.spans) *proto.add_spans() = ToProto(span);
  proto.set_finish_reason(ToProto(rollout.finish_reason));
  proto.set_seed(rollout.seed);
  proto.set_sample(rollout.sample);
  proto.set_temperature(rollout.temperature);
  proto.set_greedy(rollout.greedy);
  proto.set_truncated_sampling(rollout.truncated_sampling);
  proto.set_duration_seconds(rollout.seconds);
  return proto;
}

}  // namespace palimpsest::wire
