#include "services/env/server/daemon_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/flags.h"

namespace palimpsest::env {
namespace {

using ::testing::HasSubstr;

absl::Status Read(const std::string& yaml, EnvDaemonConfig& config) {
  const absl::StatusOr<Node> node = ParseYaml(yaml, "run.yaml");
  if (!node.ok()) return node.status();
  Binder binder;
  Bind(binder, config);
  return binder.Read(*node, "");
}

TEST(EnvDaemonConfigTest, ReadsItsSections) {
  EnvDaemonConfig config;
  const absl::Status status = Read(
      "run: {name: a, folder: runs/a, seed: 7}\n"
      "env: {listen: \"127.0.0.1:81\", registers: {far_share: 0.5}, countdown: {max_numbers: 5}}\n",
      config);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(config.run.folder, "runs/a");
  EXPECT_EQ(config.env.tasks.registers.far_share, 0.5);
  EXPECT_EQ(config.env.tasks.countdown.max_numbers, 5);
  EXPECT_EQ(ReadListen("env", config.env.serve)->rpc.port, 81);
  EXPECT_TRUE(Validate(config).ok());
}

TEST(EnvDaemonConfigTest, RefusesUnknownKeysAndImpossibleTasksByName) {
  EnvDaemonConfig config;
  EXPECT_THAT(Read("env: {register: {}}", config).message(), HasSubstr("register"));
  config.env.tasks.registers.lines = 3;
  EXPECT_THAT(Validate(config).message(), HasSubstr("env.registers.lines=3"));
}

TEST(EnvDaemonConfigTest, BeyondLoopbackOnlyWhenToldSo) {
  EnvDaemonConfig config;
  config.env.serve.metrics = "0.0.0.0:0";
  EXPECT_THAT(Validate(config).message(), HasSubstr("env.insecure: true"));
  config.env.serve.rpc.insecure = true;
  EXPECT_TRUE(Validate(config).ok());
}

}  // namespace
}  // namespace palimpsest::env
