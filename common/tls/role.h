#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace palimpsest {

// Who a process is. Stands in its certificate as the URI palimpsest://role/<name>.
// A router stands before the replicas of inference and is taken for one by its clients.
enum class Role {
  kInference,
  kRouter,
  kTrainer,
  kOrchestrator,
  kEnv,
  kClient,
  kOperator,
  kMetrics
};

inline constexpr std::array kAllRoles = {Role::kInference,    Role::kRouter, Role::kTrainer,
                                         Role::kOrchestrator, Role::kEnv,    Role::kClient,
                                         Role::kOperator,     Role::kMetrics};

inline constexpr std::string_view kRoleUri = "palimpsest://role/";

// "inference", "trainer", ..: also the name of the role's file.
std::string_view RoleName(Role role);
// INVALID_ARGUMENT names what it does not know.
absl::StatusOr<Role> RoleOfName(std::string_view name);

// The role that the URIs of a certificate name; URIs of other schemes are passed over.
// UNAUTHENTICATED when there is none, more than one, or one that is not known.
absl::StatusOr<Role> RoleOfUris(std::span<const std::string> uris);

}  // namespace palimpsest
