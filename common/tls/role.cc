#include "common/tls/role.h"

#include <optional>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kInference:
      return "inference";
    case Role::kRouter:
      return "router";
    case Role::kTrainer:
      return "trainer";
    case Role::kOrchestrator:
      return "orchestrator";
    case Role::kEnv:
      return "env";
    case Role::kClient:
      return "client";
    case Role::kOperator:
      return "operator";
    case Role::kMetrics:
      return "metrics";
  }
  return "";
}

absl::StatusOr<Role> RoleOfName(std::string_view name) {
  for (const Role role : kAllRoles) {
    if (RoleName(role) == name) return role;
  }
  return absl::InvalidArgumentError(absl::StrFormat("there is no role \"%s\"", name));
}

absl::StatusOr<Role> RoleOfUris(std::span<const std::string> uris) {
  std::optional<Role> found;
  for (const std::string& uri : uris) {
    if (!uri.starts_with(kRoleUri)) continue;
    const absl::StatusOr<Role> role = RoleOfName(uri.substr(kRoleUri.size()));
    if (!role.ok()) {
      return absl::UnauthenticatedError(
          absl::StrFormat("the certificate names the role %s, which is not known", uri));
    }
    if (found.has_value()) {
      return absl::UnauthenticatedError("the certificate names more than one role");
    }
    found = *role;
  }
  if (found.has_value()) return *found;
  return absl::UnauthenticatedError(
      absl::StrFormat("the certificate names no role: it has no URI %s..", kRoleUri));
}

}  // namespace palimpsest
