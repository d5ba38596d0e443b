#pragma once

#include <string_view>

#include "common/context/policy.h"
#include "common/context/types.h"
#include "palimpsest/v1/context.pb.h"

// Events and policies: message <-> value. FromProto refuses with INVALID_ARGUMENT that begins with
// the field's path under `path`; what it returns is legal in itself. Whether a log fits its tokens
// and the model is for context::CheckLog, whether a policy fits a prompt for context::Validate.
namespace palimpsest::wire {

absl::StatusOr<context::Range> FromProto(const v1::PositionRange& proto, std::string_view path);
v1::PositionRange ToProto(const context::Range& range);

// Takes any known method; UNSPECIFIED is refused. Likewise the other two.
absl::StatusOr<context::Method> FromProto(v1::CompactionMethod proto, std::string_view path);
absl::StatusOr<context::Chooser> FromProto(v1::CompactionChooser proto, std::string_view path);
absl::StatusOr<context::ReferenceKind> FromProto(v1::ReferenceKind proto, std::string_view path);
v1::CompactionMethod ToProto(context::Method method);
v1::CompactionChooser ToProto(context::Chooser chooser);
v1::ReferenceKind ToProto(context::ReferenceKind kind);

// Every field must be there, as in an event.
absl::StatusOr<context::Parameters> FromProto(const v1::CompactionParameters& proto,
                                              context::Method method, std::string_view path);
v1::CompactionParameters ToProto(const context::Parameters& parameters);

absl::StatusOr<context::Event> FromProto(const v1::CompactionEvent& proto,
                                         std::string_view path = "event");
v1::CompactionEvent ToProto(const context::Event& event);

// Absent parameters take their defaults; the default chooser is the method's.
absl::StatusOr<context::ContextPolicy> FromProto(const v1::ContextPolicy& proto,
                                                 std::string_view path = "context");
v1::ContextPolicy ToProto(const context::ContextPolicy& policy);

}  // namespace palimpsest::wire
