#include "common/weights/checkpoint_reader.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::weights {
namespace {

const std::string kGolden = "tests/golden/weights/";

std::string Hex(std::span<const std::byte> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte b : bytes) {
    text += kDigits[std::to_integer<int>(b) / 16];
    text += kDigits[std::to_integer<int>(b) % 16];
  }
  return text;
}

// expected.json holds what Python's tensors hold; nothing of it came through our reader.
void ExpectGolden(const std::string& folder) {
  const auto reader = CheckpointReader::Open(folder);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto expected = nlohmann::json::parse(Read(kGolden + "expected.json"));
  EXPECT_EQ((*reader)->names().size(), expected.size());
  for (const auto& [name, want] : expected.items()) {
    const auto view = (*reader)->Find(name);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(Name(view->type), want["dtype"].get<std::string>()) << name;
    EXPECT_EQ(view->shape, want["shape"].get<std::vector<int64_t>>()) << name;
    EXPECT_EQ(Hex(view->bytes), want["bytes"].get<std::string>()) << name;
  }
}

TEST(CheckpointReader, ReadsWhatPythonWroteInOneFile) { ExpectGolden(kGolden + "single"); }

TEST(CheckpointReader, ReadsWhatPythonWroteInShards) { ExpectGolden(kGolden + "sharded"); }

TEST(CheckpointReader, ATensorThatIsNotThereIsNotFoundByName) {
  const auto reader = CheckpointReader::Open(kGolden + "single");
  ASSERT_TRUE(reader.ok());
  const auto status = (*reader)->Find("lm_head.weight").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("lm_head.weight"));
}

TEST(CheckpointReader, AFolderWithoutWeightsIsNotFound) {
  const ScratchFolder folder;
  EXPECT_TRUE(absl::IsNotFound(CheckpointReader::Open(folder.path()).status()));
  EXPECT_TRUE(absl::IsNotFound(CheckpointReader::Open(folder / "none").status()));
}

class ShardIndex : public ::testing::Test {
 protected:
  absl::Status OpenWith(const std::string& index) {
    Write(folder_ / "model.safetensors.index.json", index);
    return CheckpointReader::Open(folder_.path()).status();
  }
  ShardIndex() {
    const std::vector<uint8_t> bytes = {1};
    const std::vector<NamedTensor> x = {
        {"x", {TensorType::kU8, {1}, std::as_bytes(std::span(bytes))}}};
    EXPECT_TRUE(WriteSafetensors(folder_ / "a.safetensors", x, {}).ok());
    std::filesystem::create_directory(folder_ / "sub");
    EXPECT_TRUE(WriteSafetensors(folder_ / "sub/b.safetensors", x, {}).ok());
  }
  ScratchFolder folder_;
};

TEST_F(ShardIndex, ThatIsRightOpens) {
  EXPECT_TRUE(OpenWith(R"({"weight_map":{"x":"a.safetensors"}})").ok());
}

TEST_F(ShardIndex, CannotNameAFileOutsideTheFolder) {
  for (const std::string name :
       {"sub/b.safetensors", "../a.safetensors", "/etc/a.safetensors", "..", "", ".a.safetensors",
        "a.bin", "a.safetensors\\u0000.safetensors"}) {
    const auto status = OpenWith(R"({"weight_map":{"x":")" + name + R"("}})");
    EXPECT_TRUE(absl::IsDataLoss(status)) << name << ": " << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("weight_map.x"));
  }
}

TEST_F(ShardIndex, MustAgreeWithItsShards) {
  EXPECT_TRUE(absl::IsDataLoss(OpenWith(R"({"weight_map":{"y":"a.safetensors"}})")));
  EXPECT_TRUE(absl::IsNotFound(OpenWith(R"({"weight_map":{"x":"c.safetensors"}})")));
}

TEST_F(ShardIndex, ThatIsNoIndexIsRefused) {
  for (const char* index : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"x":1}})",
                            R"({"weight_map":{"x":"a.safetensors","x":"a.safetensors"}})"}) {
    EXPECT_TRUE(absl::IsDataLoss(OpenWith(index))) << index;
  }
}

}  // namespace
}  // namespace palimpsest::weights
