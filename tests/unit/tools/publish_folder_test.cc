#include "tools/launch/publish_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/weights/store.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PublishFolderTest : public ::testing::Test {
 protected:
  PublishFolderTest() {
    std::filesystem::create_directories(model_ + "/original");
    for (const char* name :
         {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja",
          "pytorch_model.bin", "README.md", ".hidden.json", "manifest.json"}) {
      weights::Write(model_ + "/" + name, name);
    }
  }
  // The files of the version that readers find.
  std::vector<std::string> Published() {
    const auto reader =
        *weights::StoreReader::Open(run_.StoreFolder(), {.reader = "test"}, SystemClock());
    const auto info = reader->Verify(**reader->Poll());
    EXPECT_TRUE(info.ok()) << info.status();
    std::vector<std::string> names;
    for (const weights::ManifestFile& file : info->manifest.files) names.push_back(file.name);
    return names;
  }

  const weights::ScratchFolder scratch_;
  const std::string model_ = scratch_ / "model";
  const RunSection run_{.name = "serve", .folder = scratch_ / "run"};
};

TEST_F(PublishFolderTest, TheModelsFilesBecomeAVersionAndNothingElse) {
  EXPECT_EQ(*PublishFolder(model_, run_, SystemClock()), PolicyVersion(1));
  EXPECT_THAT(Published(), ElementsAre("chat_template.jinja", "config.json", "model.safetensors",
                                       "tokenizer.json"));
}

TEST_F(PublishFolderTest, TheSameFilesKeepTheirNumberAndOthersGetANewOne) {
  ASSERT_EQ(*PublishFolder(model_, run_, SystemClock()), PolicyVersion(1));
  EXPECT_EQ(*PublishFolder(model_, run_, SystemClock()), PolicyVersion(1));
  std::filesystem::remove(model_ + "/model.safetensors");  // as a download would replace it
  weights::Write(model_ + "/model.safetensors", "other weights");
  EXPECT_EQ(*PublishFolder(model_, run_, SystemClock()), PolicyVersion(2));
}

TEST_F(PublishFolderTest, SymbolicLinksOfACacheAreFollowed) {
  std::filesystem::rename(model_ + "/model.safetensors", scratch_ / "blob");
  std::filesystem::create_symlink("../blob", model_ + "/model.safetensors");
  ASSERT_TRUE(PublishFolder(model_, run_, SystemClock()).ok());
  EXPECT_EQ(Published().size(), 4u);
}

TEST_F(PublishFolderTest, AFolderThatIsNoModelIsRefusedByItsName) {
  const absl::Status missing = PublishFolder("no-such-folder", run_, SystemClock()).status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no-such-folder"));
  std::filesystem::remove(model_ + "/config.json");
  EXPECT_THAT(std::string(PublishFolder(model_, run_, SystemClock()).status().message()),
              HasSubstr("has no config.json"));
}

}  // namespace
}  // namespace palimpsest::tools
