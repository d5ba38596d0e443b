#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace palimpsest {

// The RPCs of a RawService.
struct RawNames {
  const char* echo = "/test.Raw/Echo";
  const char* fail = "/test.Raw/Fail";
  const char* hang = "/test.Raw/Hang";
  const char* slow = "/test.Raw/Slow";
};

// A service of bytes, written without protos.
//   Echo answers with the request; Fail with kFailedPrecondition; Hang ends only when cancelled;
//   Slow echoes after 300 ms.
class RawService final : public grpc::Service {
 public:
  explicit RawService(const RawNames& names = {});
};

// A blocking call of bytes. `timeout` infinite sets no deadline; `header` is sent along unless
// empty.
absl::StatusOr<std::string> CallRaw(const std::shared_ptr<grpc::Channel>& channel,
                                    const char* method, const std::string& request,
                                    absl::Duration timeout = absl::Seconds(10),
                                    const std::string& header = "");

// What gRPC's health service says: true for SERVING.
absl::StatusOr<bool> CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                                 const std::string& service);

}  // namespace palimpsest
