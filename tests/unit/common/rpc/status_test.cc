#include "common/rpc/status.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

TEST(RpcStatusTest, AllCodesGoThereAndBack) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
  EXPECT_EQ(ToGrpc(absl::DataLossError("")).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(ToGrpc(absl::UnauthenticatedError("")).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST(RpcStatusTest, LongMessagesAreCutBetweenCharacters) {
  for (int shift = 0; shift < 3; ++shift) {
    std::string message(shift, 'x');
    while (message.size() < 10000) message += "\xE2\x82\xAC";
    const std::string cut = ToGrpc(absl::InternalError(message)).error_message();
    EXPECT_LE(cut.size(), 2048u);
    EXPECT_EQ(cut.substr(cut.size() - 6), "\xE2\x82\xAC...");
  }
  EXPECT_EQ(ToGrpc(absl::InternalError(std::string(2048, 'x'))).error_message().back(), 'x');
}

}  // namespace
}  // namespace palimpsest
