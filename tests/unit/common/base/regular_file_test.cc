#include "common/base/regular_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

TEST(ReadRegularFileTest, IsTheWholeFileOrSaysWhyNotAtOnce) {
  const std::string folder = ::testing::TempDir() + "regular-file-" + std::to_string(getpid());
  fs::create_directories(folder);
  const std::string text = std::string("a\0b", 3) + std::string(100'000, 'x');
  std::ofstream(folder + "/plain", std::ios::binary) << text;
  std::ofstream(folder + "/empty");
  ASSERT_EQ(mkfifo((folder + "/pipe").c_str(), 0600), 0);
  EXPECT_EQ(ReadRegularFile(folder + "/plain", 100'003).value(), text);
  EXPECT_EQ(ReadRegularFile(folder + "/empty", 0).value(), "");
  const auto said = [&](const std::string& path) {
    return ReadRegularFile(path, 100'002).status();
  };
  EXPECT_EQ(said(folder + "/plain").message(),
            folder + "/plain: has 100003 bytes, at most 100002 are read");
  for (const std::string& path : {folder + "/pipe", folder, std::string("/dev/zero")}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(said(path))) << said(path);
    EXPECT_EQ(said(path).message(), path + ": is no plain file");
  }
  EXPECT_TRUE(absl::IsNotFound(said(folder + "/nothing")));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace palimpsest
