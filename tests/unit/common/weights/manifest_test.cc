#include "common/weights/manifest.h"

#include <gmock/gmock.h>

#include <limits>

#include "absl/strings/str_replace.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::weights {
namespace {

Manifest Sample() {
  return {.version = PolicyVersion(42),
          .parent = PolicyVersion(40),
          .run = "quickstart",
          .attempt = 3,
          .source_step = 17,
          .created = absl::FromUnixMillis(1'700'000'000'123),
          .files = {{"config.json", 2, std::string(32, 'a')},
                    {"model.safetensors", int64_t{1} << 40, std::string(32, '0')}}};
}

TEST(Manifest, IsReadAsItWasWritten) {
  Manifest manifest = Sample();
  EXPECT_EQ(*ManifestFromJson(*ToJson(manifest)), manifest);
  manifest.parent.reset();
  EXPECT_EQ(*ManifestFromJson(*ToJson(manifest)), manifest);
}

TEST(Manifest, AnyPrefixOfItIsRefused) {
  const std::string text = *ToJson(Sample());
  for (size_t n = 0; n + 2 < text.size(); ++n) {  // the last two bytes are "}\n"
    EXPECT_TRUE(absl::IsDataLoss(ManifestFromJson(text.substr(0, n)).status())) << n;
  }
}

TEST(Manifest, AnotherFormatIsToldFromABrokenOne) {
  const std::string text = *ToJson(Sample());
  const auto status =
      ManifestFromJson(absl::StrReplaceAll(text, {{"\"format\": 1", "\"format\": 2"}})).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST(Manifest, WrongFieldsAreRefused) {
  const std::string text = *ToJson(Sample());
  const std::vector<std::pair<std::string, std::string>> edits = {
      {"\"version\": 42", "\"version\": 0"},
      {"\"version\": 42", "\"version\": -1"},
      {"\"version\": 42", "\"version\": 9223372036854775808"},
      {"\"parent_version\": 40", "\"parent_version\": \"40\""},
      {"\"source_step\": 17", "\"source_step\": 1.5"},
      {"\"run\"", "\"ran\""},
      {"2023-", "20x3-"},
      {"config.json", "../config.json"},
      {"config.json", "manifest.json"},
      {"config.json", "model.safetensors"},
      {"config.json", "zzz.json"},
      {"aaaa", "AAAA"},
  };
  for (const auto& [from, to] : edits) {
    const std::string edited = absl::StrReplaceAll(text, {{from, to}});
    ASSERT_NE(edited, text) << from;
    EXPECT_TRUE(absl::IsDataLoss(ManifestFromJson(edited).status())) << to;
  }
}

TEST(FolderName, HasEightDigitsOrMore) {
  EXPECT_EQ(FolderName(PolicyVersion(42)), "v00000042");
  EXPECT_EQ(FolderName(PolicyVersion(123'456'789)), "v123456789");
  for (const int64_t n : {int64_t{1}, int64_t{99'999'999}, int64_t{100'000'000},
                          std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(VersionFromFolderName(FolderName(PolicyVersion(n))), PolicyVersion(n));
  }
  for (const char* name : {"", "v", "v1", "v0000004", "v000000042", "v00000000", "v-0000001",
                           "v00000042x", "w00000042", "v99999999999999999999", "acks"}) {
    EXPECT_EQ(VersionFromFolderName(name), std::nullopt) << name;
  }
}

// The value that the algorithm's authors publish for no input.
TEST(DigestFile, IsXxh3OfTheBytes) {
  const ScratchFolder folder;
  Write(folder / "a", "");
  EXPECT_EQ(*DigestFile(folder.path(), "a"),
            (ManifestFile{"a", 0, "99aa06d3014798d86001c324468d497f"}));
}

TEST(DigestFile, RefusesLinksAndFolders) {
  const ScratchFolder folder;
  Write(folder / "a", "x");
  std::filesystem::create_symlink("a", folder / "link");
  std::filesystem::create_directory(folder / "sub");
  EXPECT_TRUE(DigestFile(folder.path(), "a").ok());
  EXPECT_FALSE(DigestFile(folder.path(), "link").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(DigestFile(folder.path(), "sub").status()));
}

}  // namespace
}  // namespace palimpsest::weights
