#include "common/config/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace palimpsest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<ParsedFlags> Parse(std::vector<const char*> words) {
  words.insert(words.begin(), "daemon");
  return ParseDaemonFlags(static_cast<int>(words.size()), words.data());
}

struct Trainer {
  int steps = 1;
  std::string name = "a";
};
struct Config {
  Trainer trainer;
};
void Bind(Binder& b, Trainer& c) {
  b.Field("steps", c.steps, "to train");
  b.Field("name", c.name, "of the run");
}
void Bind(Binder& b, Config& c) { b.Section("trainer", c.trainer); }

TEST(ParseDaemonFlagsTest, TakesFileAndOverridesInOrder) {
  const absl::StatusOr<ParsedFlags> flags =
      Parse({"--set", "a.b=1", "--config=run.yaml", "--set=c.d=x=y", "--check-config"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->config_file, "run.yaml");
  EXPECT_THAT(flags->sets, ElementsAre("a.b=1", "c.d=x=y"));
  EXPECT_EQ(flags->action, DaemonAction::kCheckConfig);
}

TEST(ParseDaemonFlagsTest, OnlyRunAndCheckNeedAFile) {
  EXPECT_FALSE(Parse({}).ok());
  EXPECT_FALSE(Parse({"--check-config"}).ok());
  EXPECT_TRUE(Parse({"--print-config"}).ok());
  EXPECT_TRUE(Parse({"--help"}).ok());
  EXPECT_TRUE(Parse({"--version"}).ok());
}

TEST(ParseDaemonFlagsTest, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(Parse({"--config", "a", "--verbose"}).status().message(), HasSubstr("--verbose"));
  EXPECT_THAT(Parse({"--config", "a", "extra"}).status().message(), HasSubstr("extra"));
  EXPECT_THAT(Parse({"--config", "a", "--config", "b"}).status().message(), HasSubstr("twice"));
  EXPECT_THAT(Parse({"--config"}).status().message(), HasSubstr("needs a value"));
  EXPECT_THAT(Parse({"--config="}).status().message(), HasSubstr("needs a file name"));
  EXPECT_FALSE(Parse({"--help", "--version"}).ok());
}

TEST(LoadConfigTest, OverridesGoOverTheFileAndErrorsNameTheirSource) {
  const std::string file = ::testing::TempDir() + "/flags_test_run.yaml";
  std::ofstream(file) << "trainer:\n  steps: 5\nenv: {x: 1}\n";
  constexpr std::string_view kSections[] = {"trainer", "env"};
  Config config;
  ASSERT_TRUE(LoadConfig({.config_file = file, .sets = {"trainer.name=b", "trainer.steps=6"}},
                         kSections, config)
                  .ok());
  EXPECT_EQ(config.trainer.steps, 6);
  EXPECT_EQ(config.trainer.name, "b");
  const absl::Status wrong =
      LoadConfig({.config_file = file, .sets = {"trainer.steps=many"}}, kSections, config);
  EXPECT_EQ(wrong.message(),
            "--set trainer.steps=many: trainer.steps: expected an integer, found many");
  const absl::Status unknown =
      LoadConfig({.config_file = file, .sets = {"trainer.step=1"}}, kSections, config);
  EXPECT_THAT(unknown.message(), HasSubstr("did you mean \"steps\"?"));
}

TEST(LoadConfigTest, AFileThatCannotBeReadIsNotFound) {
  Config config;
  EXPECT_EQ(LoadConfig({.config_file = "/nonexistent/run.yaml", .sets = {}}, {}, config).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadConfig({.config_file = ::testing::TempDir(), .sets = {}}, {}, config).code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace palimpsest
