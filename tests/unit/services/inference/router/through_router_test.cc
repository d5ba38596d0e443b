#include "tests/unit/services/inference/router/router_fixture.h"
#include "tests/unit/services/inference/server/generate_contract.h"

namespace palimpsest::inference {
namespace {

// The server is the only replica: what clients see of it must be the same.
Front RouterBefore(const std::string& server) {
  const auto router = std::make_shared<RouterFront>(ReplicaAddresses{{"inference-0", server}});
  EXPECT_TRUE(router->WaitForReady(1));
  return {router, router->address()};
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(ThroughARouter, GenerateContract, ::testing::Values(&RouterBefore));

}  // namespace palimpsest::inference
