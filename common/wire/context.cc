#include "common/wire/context.h"

#include <cmath>

#include "common/context/bitmap.h"
#include "common/wire/field.h"

namespace palimpsest::wire {
namespace {

using context::Chooser;
using context::Method;
using context::ReferenceKind;

// The wire's numbers are the canonical record's, so a known name is all that is asked.
template <class Value, class Proto>
absl::StatusOr<Value> KnownEnum(Proto proto, std::string_view path) {
  const int number = static_cast<int>(proto);
  const auto value = static_cast<Value>(number);
  if (number <= 0 || number > 255 || context::Name(value).empty()) {
    return Refused(path, absl::StrFormat("%d is not a known value", number));
  }
  return value;
}

absl::Status Missing(std::string_view path) { return Refused(path, "is missing"); }

absl::Status CheckAllPresent(const v1::CompactionParameters& p, std::string_view path) {
  if (!p.has_mu()) return Missing(Field(path, "mu"));
  if (!p.has_lambda()) return Missing(Field(path, "lambda"));
  if (!p.has_log_lower()) return Missing(Field(path, "log_lower"));
  if (!p.has_log_upper()) return Missing(Field(path, "log_upper"));
  if (!p.has_seed()) return Missing(Field(path, "seed"));
  if (!p.has_holdout_every()) return Missing(Field(path, "holdout_every"));
  return absl::OkStatus();
}

// Absent fields keep their defaults.
absl::StatusOr<context::Parameters> PolicyParameters(const v1::CompactionParameters& proto,
                                                     Method method, std::string_view path) {
  v1::CompactionParameters full =
      ToProto(context::Parameters{.chooser = context::DefaultChooser(method)});
  full.MergeFrom(proto);  // fields that are set (enums: not UNSPECIFIED) win
  return FromProto(full, method, path);
}

absl::StatusOr<context::Quality> QualityFromProto(const v1::CompactionQuality& proto,
                                                  bool holds_out, std::string_view path) {
  context::Quality quality{proto.mass_error(), proto.output_error(), proto.kkt_residual(), {}, {}};
  RETURN_IF_ERROR(CheckAmount(Field(path, "mass_error"), quality.mass_error));
  RETURN_IF_ERROR(CheckAmount(Field(path, "output_error"), quality.output_error));
  RETURN_IF_ERROR(CheckAmount(Field(path, "kkt_residual"), quality.kkt_residual));
  for (auto [name, present] :
       {std::pair("holdout_mass_error", proto.has_holdout_mass_error()),
        std::pair("holdout_output_error", proto.has_holdout_output_error())}) {
    if (present && !holds_out) return Refused(Field(path, name), "is set, but holdout_every=0");
  }
  if (proto.has_holdout_mass_error()) quality.holdout_mass_error = proto.holdout_mass_error();
  if (proto.has_holdout_output_error()) quality.holdout_output_error = proto.holdout_output_error();
  RETURN_IF_ERROR(
      CheckAmount(Field(path, "holdout_mass_error"), quality.holdout_mass_error.value_or(0)));
  RETURN_IF_ERROR(
      CheckAmount(Field(path, "holdout_output_error"), quality.holdout_output_error.value_or(0)));
  return quality;
}

v1::CompactionQuality QualityToProto(const context::Quality& quality) {
  v1::CompactionQuality proto;
  proto.set_mass_error(quality.mass_error);
  proto.set_output_error(quality.output_error);
  proto.set_kkt_residual(quality.kkt_residual);
  if (quality.holdout_mass_error) proto.set_holdout_mass_error(*quality.holdout_mass_error);
  if (quality.holdout_output_error) proto.set_holdout_output_error(*quality.holdout_output_error);
  return proto;
}

// at, window and reference.
absl::Status ReadPositions(const v1::CompactionEvent& proto, std::string_view path,
                           context::Event& event) {
  event.at = proto.at();
  if (event.at < 0) return Refused(Field(path, "at"), absl::StrFormat("%d is not >= 0", event.at));
  if (!proto.has_window()) return Missing(Field(path, "window"));
  if (!proto.has_reference()) return Missing(Field(path, "reference"));
  ASSIGN_OR_RETURN(event.window, FromProto(proto.window(), Field(path, "window")));
  ASSIGN_OR_RETURN(event.reference, FromProto(proto.reference(), Field(path, "reference")));
  if (event.window.empty()) return Refused(Field(path, "window"), "is empty");
  for (auto [name, range] :
       {std::pair("window", event.window), std::pair("reference", event.reference)}) {
    if (range.end > event.at) {
      return Refused(Field(path, name), absl::StrFormat("[%d, %d) ends after at=%d", range.begin,
                                                        range.end, event.at));
    }
  }
  return absl::OkStatus();
}

struct TriggerToProto {
  v1::ContextPolicy& proto;
  void operator()(const context::NoTrigger&) const {}
  void operator()(const context::KvBudget& t) const {
    proto.mutable_kv_budget()->set_budget(t.budget);
    proto.mutable_kv_budget()->set_window(t.window);
    proto.mutable_kv_budget()->set_keep_ratio(t.keep_ratio);
    proto.mutable_kv_budget()->set_early(t.early);
  }
  void operator()(const context::Segments& t) const {
    proto.mutable_segments()->set_every(t.every);
    proto.mutable_segments()->set_window(t.window);
    proto.mutable_segments()->set_keep_ratio(t.keep_ratio);
  }
  void operator()(const context::Turns& t) const {
    proto.mutable_turns()->set_n_protect_turns(t.n_protect_turns);
    if (t.max_turns) proto.mutable_turns()->set_max_turns(*t.max_turns);
    proto.mutable_turns()->set_keep_ratio(t.keep_ratio);
  }
  void operator()(const context::Manual& t) const {
    proto.mutable_manual()->set_keep_ratio(t.keep_ratio);
  }
};

template <class Trigger, class Proto>
absl::Status ReadRatio(const Proto& proto, std::string_view path, Trigger& trigger) {
  if (proto.has_keep_ratio()) trigger.keep_ratio = proto.keep_ratio();
  return CheckAmount(Field(path, "keep_ratio"), trigger.keep_ratio);
}

absl::Status ReadTrigger(const v1::ContextPolicy& proto, std::string_view path,
                         context::ContextPolicy& policy) {
  switch (proto.trigger_case()) {
    case v1::ContextPolicy::kKvBudget: {
      const auto& p = proto.kv_budget();
      auto& t = policy.trigger.emplace<context::KvBudget>();
      t.budget = p.budget();
      t.window = p.window();
      t.early = p.early();
      return ReadRatio(p, Field(path, "kv_budget"), t);
    }
    case v1::ContextPolicy::kSegments: {
      const auto& p = proto.segments();
      auto& t = policy.trigger.emplace<context::Segments>();
      t.every = p.every();
      t.window = p.window();
      return ReadRatio(p, Field(path, "segments"), t);
    }
    case v1::ContextPolicy::kTurns: {
      const auto& p = proto.turns();
      auto& t = policy.trigger.emplace<context::Turns>();
      t.n_protect_turns = p.n_protect_turns();
      if (p.has_max_turns()) t.max_turns = p.max_turns();
      return ReadRatio(p, Field(path, "turns"), t);
    }
    case v1::ContextPolicy::kManual:
      return ReadRatio(proto.manual(), Field(path, "manual"),
                       policy.trigger.emplace<context::Manual>());
    case v1::ContextPolicy::TRIGGER_NOT_SET:
      return absl::OkStatus();
  }
  return Refused(path, "trigger is unknown");
}

}  // namespace

absl::StatusOr<context::Range> FromProto(const v1::PositionRange& proto, std::string_view path) {
  if (proto.begin() < 0 || proto.end() < proto.begin()) {
    return Refused(
        path, absl::StrFormat("[%d, %d) is not a range of positions", proto.begin(), proto.end()));
  }
  return context::Range{proto.begin(), proto.end()};
}

v1::PositionRange ToProto(const context::Range& range) {
  v1::PositionRange proto;
  proto.set_begin(range.begin);
  proto.set_end(range.end);
  return proto;
}

absl::StatusOr<Method> FromProto(v1::CompactionMethod proto, std::string_view path) {
  return KnownEnum<Method>(proto, path);
}
absl::StatusOr<Chooser> FromProto(v1::CompactionChooser proto, std::string_view path) {
  return KnownEnum<Chooser>(proto, path);
}
absl::StatusOr<ReferenceKind> FromProto(v1::ReferenceKind proto, std::string_view path) {
  return KnownEnum<ReferenceKind>(proto, path);
}
v1::CompactionMethod ToProto(Method method) { return static_cast<v1::CompactionMethod>(method); }
v1::CompactionChooser ToProto(Chooser chooser) {
  return static_cast<v1::CompactionChooser>(chooser);
}
v1::ReferenceKind ToProto(ReferenceKind kind) { return static_cast<v1::ReferenceKind>(kind); }

absl::StatusOr<context::Parameters> FromProto(const v1::CompactionParameters& proto, Method method,
                                              std::string_view path) {
  RETURN_IF_ERROR(CheckAllPresent(proto, path));
  context::Parameters p;
  p.mu = proto.mu();
  p.lambda = proto.lambda();
  p.log_lower = proto.log_lower();
  p.log_upper = proto.log_upper();
  p.seed = proto.seed();
  p.holdout_every = proto.holdout_every();
  ASSIGN_OR_RETURN(p.chooser, FromProto(proto.chooser(), Field(path, "chooser")));
  ASSIGN_OR_RETURN(p.reference_kind,
                   FromProto(proto.reference_kind(), Field(path, "reference_kind")));
  RETURN_IF_ERROR(Under(path, context::Validate(p, method)));
  return p;
}

v1::CompactionParameters ToProto(const context::Parameters& p) {
  v1::CompactionParameters proto;
  proto.set_mu(p.mu);
  proto.set_lambda(p.lambda);
  proto.set_log_lower(p.log_lower);
  proto.set_log_upper(p.log_upper);
  proto.set_chooser(ToProto(p.chooser));
  proto.set_reference_kind(ToProto(p.reference_kind));
  proto.set_seed(p.seed);
  proto.set_holdout_every(p.holdout_every);
  return proto;
}

absl::StatusOr<context::Event> FromProto(const v1::CompactionEvent& proto, std::string_view path) {
  context::Event event;
  RETURN_IF_ERROR(ReadPositions(proto, path, event));
  ASSIGN_OR_RETURN(event.method, FromProto(proto.method(), Field(path, "method")));
  ASSIGN_OR_RETURN(event.parameters,
                   FromProto(proto.parameters(), event.method, Field(path, "parameters")));
  auto kept =
      context::DecodeBitmaps(event.window, {proto.layers(), proto.kv_heads()}, proto.kept());
  RETURN_IF_ERROR(About(Field(path, "kept"), kept.status()));
  event.kept = *std::move(kept);
  if (!proto.digest().empty()) {
    auto digest = context::Digest::FromHex(proto.digest());
    RETURN_IF_ERROR(About(Field(path, "digest"), digest.status()));
    event.digest = *digest;
  }
  ASSIGN_OR_RETURN(event.quality,
                   QualityFromProto(proto.quality(), event.parameters.holdout_every > 0,
                                    Field(path, "quality")));
  event.seconds = proto.duration_seconds();
  RETURN_IF_ERROR(CheckAmount(Field(path, "duration_seconds"), event.seconds));
  return event;
}

v1::CompactionEvent ToProto(const context::Event& event) {
  v1::CompactionEvent proto;
  proto.set_at(event.at);
  *proto.mutable_window() = ToProto(event.window);
  proto.set_method(ToProto(event.method));
  *proto.mutable_parameters() = ToProto(event.parameters);
  *proto.mutable_reference() = ToProto(event.reference);
  proto.set_layers(event.kept.shape().layers);
  proto.set_kv_heads(event.kept.shape().kv_heads);
  proto.set_kept(context::EncodeBitmaps(event.window, event.kept));
  if (event.digest) proto.set_digest(event.digest->Hex());
  if (context::UsesReference(event.method, event.parameters.chooser)) {
    *proto.mutable_quality() = QualityToProto(event.quality);
  }
  proto.set_duration_seconds(event.seconds);
  return proto;
}

absl::StatusOr<context::ContextPolicy> FromProto(const v1::ContextPolicy& proto,
                                                 std::string_view path) {
  context::ContextPolicy policy;
  RETURN_IF_ERROR(ReadTrigger(proto, path, policy));
  if (proto.method() != v1::COMPACTION_METHOD_UNSPECIFIED) {
    ASSIGN_OR_RETURN(policy.method, FromProto(proto.method(), Field(path, "method")));
  }
  ASSIGN_OR_RETURN(policy.parameters,
                   PolicyParameters(proto.parameters(), policy.method, Field(path, "parameters")));
  if (proto.has_reference_tokens()) policy.reference_tokens = proto.reference_tokens();
  policy.after_window = proto.after_window();
  if (proto.has_protect()) policy.protect = proto.protect();
  policy.stack = proto.stack();
  // With an empty prompt: what is refused here works for no prompt.
  RETURN_IF_ERROR(Under(path, context::Validate(policy, 0)));
  return policy;
}

v1::ContextPolicy ToProto(const context::ContextPolicy& policy) {
  v1::ContextPolicy proto;
  std::visit(TriggerToProto{proto}, policy.trigger);
  proto.set_method(ToProto(policy.method));
  *proto.mutable_parameters() = ToProto(policy.parameters);
  proto.set_reference_tokens(policy.reference_tokens);
  proto.set_after_window(policy.after_window);
  if (policy.protect) proto.set_protect(*policy.protect);
  proto.set_stack(policy.stack);
  return proto;
}

}  // namespace palimpsest::wire
