#include "common/rpc/status.h"

#include <string>

namespace palimpsest {
namespace {

constexpr size_t kMaxMessageBytes = 2048;

// Never cuts inside of a UTF-8 sequence, whose later bytes are 10xxxxxx.
std::string Shorten(std::string message) {
  if (message.size() <= kMaxMessageBytes) return message;
  size_t end = kMaxMessageBytes - 3;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  message.resize(end);
  return message + "...";
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      Shorten(std::string(status.message())));
}

}  // namespace palimpsest
