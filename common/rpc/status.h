#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace palimpsest {

// The two lists of codes are the same; details and payloads are not carried.
absl::Status FromGrpc(const grpc::Status& status);

// Messages are cut to 2 KiB: they travel in HTTP/2 headers, where a long one breaks the call.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace palimpsest
