#include "tools/watch/run_logs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RunLogsTest, TheLastWarningsOfAllDaemonsInTheOrderOfTime) {
  const weights::ScratchFolder run;
  const std::string logs = run / "logs/latest";
  EXPECT_THAT(LastWarnings(run.path(), 3), IsEmpty());
  std::filesystem::create_directories(logs);
  std::ofstream(logs + "/env-0.log")
      << R"({"time":"2026-01-01T10:00:05.5Z","level":"warning","role":"env","run":"r","msg":"slow","pool":"p","n":2})"
      << "\nno line of ours\n"
      << R"({"time":"2026-01-01T10:00:09Z","level":"info","role":"env","msg":"fine"})"
      << "\n";
  std::ofstream(logs + "/trainer-0.log")
      << R"({"time":"2026-01-01T10:00:01Z","level":"error","role":"trainer","msg":"first"})"
      << "\n"
      << R"({"time":"2026-01-01T10:00:07Z","level":"error","role":"trainer","msg":"last"})"
      << "\n"
      << "[1, 2]\n{\"level\": 7}\n{\"time\":\"x\",\"level\":\"wa";
  EXPECT_THAT(LastWarnings(run.path(), 2),
              ElementsAre("10:00:05 env: slow n=2 pool=p", "10:00:07 trainer: last"));
}

}  // namespace
}  // namespace palimpsest::tools
