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

TEST(WithPlaceTest, ARefusedValueIsFoundWhereItWasWritten) {
  const std::string file = ::testing::TempDir() + "/flags_test_places.yaml";
  std::ofstream(file) << "trainer:\n  steps: 5\n  loss: {clip: 2}\n"
                         "stages:\n  - {name: a}\n  - name: b\n    steps: 0\n";
  const auto told = [&](const std::string& message, std::vector<std::string> sets = {}) {
    const absl::Status status =
        WithPlace(absl::InvalidArgumentError(message), {.config_file = file, .sets = sets});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(told("trainer.steps=5 is odd"), file + ":2: trainer.steps=5 is odd");
  EXPECT_EQ(told("trainer.loss.clip=2 is > 1"), file + ":3: trainer.loss.clip=2 is > 1");
  EXPECT_EQ(told("stages[1].steps=0"), file + ":7: stages[1].steps=0");
  EXPECT_EQ(told("stages[0].name: \"a\" is taken"), file + ":5: stages[0].name: \"a\" is taken");
  // Left out: the section.
  EXPECT_EQ(told("trainer.loss.epsilon=0"), file + ":3: trainer.loss.epsilon=0");
  EXPECT_EQ(told("stages[2].steps=0"), file + ":4: stages[2].steps=0");
  // The last override counts.
  EXPECT_EQ(told("trainer.steps=7 is odd", {"trainer.steps=6", "trainer.steps=7"}),
            "--set trainer.steps=7: trainer.steps=7 is odd");
  EXPECT_EQ(told("trainer.rate=7", {"trainer.steps=6"}), file + ":1: trainer.rate=7");
  EXPECT_EQ(told("new.part.x=1", {"new.part={x: 1}"}), "--set new.part={x: 1}: new.part.x=1");
}

TEST(WithPlaceTest, WhatNamesNoKeyStaysAsItIs) {
  for (const char* message : {"env.workers=0", "no key at all", "", "=3", "..[", "[3]"}) {
    EXPECT_EQ(
        WithPlace(absl::InvalidArgumentError(message), {.sets = {"trainer.steps=1"}}).message(),
        message);
  }
  EXPECT_TRUE(WithPlace(absl::OkStatus(), {}).ok());
}

TEST(LoadConfigTest, AFileWithoutAnEndIsRefused) {
  Config config;
  const absl::Status status = LoadConfig({.config_file = "/dev/zero", .sets = {}}, {}, config);
  EXPECT_EQ(status, absl::InvalidArgumentError("--config /dev/zero has more than 4194304 bytes"));
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
