#include "common/weights/seal.h"

#include <gtest/gtest.h>

#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::weights {
namespace {

TEST(SealTest, OneBitMoreBreaksIt) {
  const ScratchFolder folder;
  Write(folder / "state.json", "{\"step\": 4}");
  EXPECT_TRUE(CheckSeal(folder.path(), "state.json").ok()) << "there is no seal yet";
  ASSERT_TRUE(SealFile(folder.path(), "state.json").ok());
  EXPECT_TRUE(CheckSeal(folder.path(), "state.json").ok());
  Write(folder / "state.json", "{\"step\": 5}");
  EXPECT_TRUE(absl::IsDataLoss(CheckSeal(folder.path(), "state.json")));
}

TEST(SealTest, ABrokenSealIsNoBetterThanABrokenFile) {
  const ScratchFolder folder;
  Write(folder / "state.json", "{}");
  ASSERT_TRUE(SealFile(folder.path(), "state.json").ok());
  Write(folder / "state.json.xxh3", "00000000000000000000000000000000");
  EXPECT_TRUE(absl::IsDataLoss(CheckSeal(folder.path(), "state.json")));
}

TEST(SealTest, AFileThatIsNotThereCannotBeSealed) {
  const ScratchFolder folder;
  EXPECT_TRUE(absl::IsNotFound(SealFile(folder.path(), "state.json")));
}

}  // namespace
}  // namespace palimpsest::weights
