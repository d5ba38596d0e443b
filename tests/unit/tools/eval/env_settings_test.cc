#include "tools/eval/env_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"

namespace palimpsest::tools::eval {
namespace {

using ::testing::HasSubstr;

class EnvSettingsTest : public ::testing::Test {
 protected:
  EnvSettingsTest() {
    std::filesystem::create_directories(folder_);
    Write("task.py", "one");
    Write("run.yaml", absl::StrFormat("env:\n"
                                      "  listen: 127.0.0.1:0\n"
                                      "  registers: {lines: 9}\n"
                                      "  workers:\n"
                                      "    - name: w\n"
                                      "      module: %s/task.py\n"
                                      "      processes: 2\n"
                                      "      options: {processes: many}\n",
                                      folder_));
  }
  ~EnvSettingsTest() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
  }
  Settings Read(const std::vector<std::string>& sets = {}) {
    const auto read = EnvSettings(folder_ + "/run.yaml", sets);
    EXPECT_TRUE(read.ok()) << read.status();
    return read.value_or(Settings());
  }
  const std::string folder_ = ::testing::TempDir() + "/env-settings";
};

TEST_F(EnvSettingsTest, AreWhatIsAskedAndJudgedAndNotHowItRuns) {
  const Settings settings = Read();
  EXPECT_EQ(settings.at("env.registers.lines"), "9");
  EXPECT_EQ(settings.at("env.workers"), "1 items");
  EXPECT_EQ(settings.at("env.workers[0].options.processes"), "many");
  EXPECT_FALSE(settings.contains("env.listen"));
  EXPECT_FALSE(settings.contains("env.workers[0].processes"));
  EXPECT_EQ(Read({"inference.batch_invariant=true"}), settings);
  EXPECT_EQ(Read({"env.registers.lines=11"}).at("env.registers.lines"), "11");
}

TEST_F(EnvSettingsTest, AFileIsHeldByItsContents) {
  const Settings before = Read();
  Write("task.py", "two");
  const Settings after = Read();
  EXPECT_EQ(before.at("env.workers[0].module"), after.at("env.workers[0].module"));
  EXPECT_THAT(MergeSettings(before, after).status().message(),
              HasSubstr("env.workers[0].module (contents)"));
}

}  // namespace
}  // namespace palimpsest::tools::eval
