#include "services/env/server/daemon_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

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
  EXPECT_EQ(ReadListen("env", config.env.serve, config.tls)->rpc.port, 81);
  EXPECT_TRUE(Validate(config).ok());
}

TEST(EnvDaemonConfigTest, RefusesUnknownKeysAndImpossibleTasksByName) {
  EnvDaemonConfig config;
  EXPECT_THAT(Read("env: {register: {}}", config).message(), HasSubstr("register"));
  config.env.tasks.registers.lines = 3;
  EXPECT_THAT(Validate(config).message(), HasSubstr("env.registers.lines=3"));
}

TEST(EnvDaemonConfigTest, ReadsWorkers) {
  EnvDaemonConfig config;
  const absl::Status status = Read(
      "env: {workers: [{name: mine, module: a.b, options: {size: 5}, python: /bin/sh, processes: 3,"
      " call_timeout: 2s, memory: 1GiB}]}",
      config);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(Validate(config).ok()) << Validate(config);
  const WorkerConfig worker = ConfigOf(config.env.workers[0]);
  EXPECT_EQ(worker.command.argv, (std::vector<std::string>{"/bin/sh", "-m", "palimpsest_env", "a.b",
                                                           R"({"size":"5"})"}));
  EXPECT_EQ(worker.processes, 3);
  EXPECT_EQ(worker.call_timeout, absl::Seconds(2));
  EXPECT_EQ(worker.command.memory_bytes, int64_t{1} << 30);
}

TEST(EnvDaemonConfigTest, RefusesWorkersByIndexAndKey) {
  const auto refusal = [](const WorkerSection& second) {
    EnvDaemonConfig config;
    config.env.workers = {{.name = "first", .module = "m", .python = "/bin/sh"}, second};
    return std::string(Validate(config).message());
  };
  EXPECT_THAT(refusal({}), HasSubstr("env.workers[1].name"));
  EXPECT_THAT(refusal({.name = "a"}), HasSubstr("env.workers[1].module"));
  EXPECT_THAT(refusal({.name = "a", .module = "no/such.py"}), HasSubstr("module=no/such.py"));
  EXPECT_THAT(refusal({.name = "a", .module = "m", .python = "/bin/sh", .processes = 0}),
              HasSubstr("env.workers[1].processes=0"));
  EXPECT_THAT(refusal({.name = "first", .module = "m", .python = "/bin/sh"}),
              HasSubstr("name=first occurs twice"));
  EXPECT_THAT(refusal({.name = "a", .module = "m", .python = "/no/python"}),
              HasSubstr("/no/python is not there"));
}

TEST(EnvDaemonConfigTest, AMissingInterpreterSaysWhichCommandMakesIt) {
  const char* home = std::getenv("XDG_CACHE_HOME");
  const std::string before = home == nullptr ? "" : home;
  setenv("XDG_CACHE_HOME", "/no/cache", 1);
  const absl::Status status = Validate(WorkerSection{.name = "a", .module = "m"}, "w");
  home == nullptr ? unsetenv("XDG_CACHE_HOME") : setenv("XDG_CACHE_HOME", before.c_str(), 1);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/cache/palimpsest/envs-"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("deploy/setup.sh --python-envs"));
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
