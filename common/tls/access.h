#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/tls/role.h"

namespace palimpsest {

// Who may call what. `method` is the full name of an RPC, "/package.Service/Method", or a path of
// HTTP: "/metrics", "/healthz", "/v1" for the whole OpenAI-compatible door and "/page" for all of
// the page of a run. A method without a row may be called by nobody; gRPC's health and reflection
// by every role.
bool MayCall(Role role, std::string_view method);

// PERMISSION_DENIED naming both.
absl::Status CheckAccess(Role role, std::string_view method);

// The rows, for those who compare them with the contracts.
std::vector<std::string_view> MethodsWithARow();

}  // namespace palimpsest
