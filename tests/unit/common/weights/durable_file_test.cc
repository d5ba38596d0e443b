#include "common/weights/durable_file.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cerrno>

#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::weights {
namespace {

using ::testing::ElementsAre;

TEST(DurableFile, ReplacesTheOldContentsAndLeavesNothingElse) {
  const ScratchFolder folder;
  ASSERT_TRUE(WriteFileDurably(folder / "a", "first, and longer").ok());
  ASSERT_TRUE(WriteFileDurably(folder / "a", "second").ok());
  EXPECT_EQ(Read(folder / "a"), "second");
  EXPECT_THAT(*ListFolder(folder.path()), ElementsAre("a"));
}

TEST(DurableFile, WithoutCommitTheOldContentsStay) {
  const ScratchFolder folder;
  Write(folder / "a", "old");
  {
    auto file = DurableFile::Create(folder / "a");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->Append(std::as_bytes(std::span("half"))).ok());
    EXPECT_EQ(Read(folder / "a"), "old");
  }
  EXPECT_EQ(Read(folder / "a"), "old");
  EXPECT_THAT(*ListFolder(folder.path()), ElementsAre("a"));
}

TEST(DurableFile, TemporaryNamesNeverRepeat) { EXPECT_NE(TemporaryName(), TemporaryName()); }

TEST(DurableFile, ErrorsNameThePathAndKeepTheirMeaning) {
  const ScratchFolder folder;
  const auto status = WriteFileDurably(folder / "no/such", "x");
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_NE(status.message().find(folder.path()), std::string::npos);
  EXPECT_TRUE(absl::IsNotFound(ReadSmallFile(folder / "none", 10).status()));
  EXPECT_TRUE(absl::IsUnavailable(IoError(ESTALE, "read", "x")));
}

TEST(DurableFile, ASmallFileHasALimit) {
  const ScratchFolder folder;
  Write(folder / "a", "12345");
  EXPECT_EQ(*ReadSmallFile(folder / "a", 5), "12345");
  EXPECT_TRUE(absl::IsResourceExhausted(ReadSmallFile(folder / "a", 4).status()));
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(*ReadSmallFile(folder / "pipe", 5), "")
      << "nobody writes there, and nobody is waited for";
}

}  // namespace
}  // namespace palimpsest::weights
