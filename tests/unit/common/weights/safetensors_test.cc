#include "common/weights/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "common/base/random.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::weights {
namespace {

constexpr char kGolden[] = "tests/golden/weights/";

std::string Prefix(uint64_t n) { return {reinterpret_cast<const char*>(&n), sizeof(n)}; }

// A file as the format says, written without our writer; the header is padded to 8 bytes.
std::string FileOf(std::string header, size_t data_bytes) {
  header.append((8 - header.size() % 8) % 8, ' ');
  return Prefix(header.size()) + header + std::string(data_bytes, '\1');
}

absl::StatusOr<SafetensorsContents> ParseText(const std::string& file) {
  return ParseSafetensors(std::as_bytes(std::span(file)), "test");
}

TEST(Safetensors, AHandMadeFileIsRead) {
  const std::string file = FileOf(
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]}})", 8);
  const auto contents = ParseText(file);
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->metadata.at("a"), "b");
  const TensorView& x = contents->tensors.at("x");
  EXPECT_EQ(x.type, TensorType::kI32);
  EXPECT_THAT(x.shape, ::testing::ElementsAre(2, 1));
  EXPECT_EQ(x.bytes.size(), 8u);
  EXPECT_EQ(x.bytes[0], std::byte{1});
}

struct Refusal {
  const char* why;
  std::string file;
  const char* message;
};

std::string One(const std::string& entry) { return "{\"x\":" + entry + "}"; }

std::vector<Refusal> Refusals() {
  const std::string good = R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  return {
      {"no prefix", "1234", "8 bytes"},
      {"header longer than the file", Prefix(100) + "{}", "header of 100"},
      {"header length near 2^64", Prefix(~uint64_t{0}) + "{}", "header of"},
      {"not an object", FileOf("[]", 0), "begin with"},
      {"leading space", FileOf(" {}", 0), "begin with"},
      {"cut JSON", FileOf(R"({"x":)", 0), "not a JSON object"},
      {"not UTF-8", FileOf("{\"\xff\":1}", 0), "not a JSON object"},
      {"bytes after the JSON", FileOf("{} {}", 0), "not a JSON object"},
      {"deep nesting", FileOf(One(std::string(1000, '[') + std::string(1000, ']')), 0), "deeper"},
      {"name twice", FileOf("{\"x\":" + good + ",\"x\":" + good + "}", 4), "twice"},
      {"key twice",
       FileOf(One(R"({"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})"), 4), "twice"},
      {"entry is a number", FileOf(One("3"), 0), "entry is not"},
      {"extra key", FileOf(One(R"({"dtype":"U8","shape":[],"data_offsets":[0,1],"x":0})"), 1),
       "entry is not"},
      {"unknown type", FileOf(One(R"({"dtype":"U9","shape":[4],"data_offsets":[0,4]})"), 4),
       "unknown tensor type"},
      {"negative dimension", FileOf(One(R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})"), 4),
       "shape holds"},
      {"fraction", FileOf(One(R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})"), 4),
       "shape holds"},
      {"product overflows to 0",
       FileOf(One(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), 0),
       "more than 2^63"},
      {"dimension of 2^64 - 1",
       FileOf(One(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,4]})"), 4),
       "shape holds"},
      {"offsets turned", FileOf(One(R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})"), 4),
       "begin <= end"},
      {"three offsets", FileOf(One(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,4]})"), 4),
       "begin <= end"},
      {"past the end", FileOf(One(good), 3), "file's data at 3"},
      {"shape too small", FileOf(One(R"({"dtype":"U8","shape":[3],"data_offsets":[0,4]})"), 4),
       "shape needs 3"},
      {"bytes behind the tensors", FileOf(One(good), 5), "the data at 5"},
      {"gap", FileOf(One(R"({"dtype":"U8","shape":[3],"data_offsets":[1,4]})"), 4), "leave a gap"},
      {"overlap",
       FileOf("{\"x\":" + good + R"(,"y":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})", 5),
       "overlap"},
      {"metadata of numbers", FileOf(R"({"__metadata__":{"a":1}})", 0), "not a string"},
      {"metadata is a list", FileOf(R"({"__metadata__":[]})", 0), "not an object"},
  };
}

TEST(Safetensors, AnElementMayBeginAtAnyByte) {
  const std::string file = FileOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                  R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                                  5);
  const auto contents = ParseSafetensors(std::as_bytes(std::span(file)), "f");
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->tensors.at("b").bytes.data(),
            reinterpret_cast<const std::byte*>(file.data()) + file.size() - 4);
}

TEST(Safetensors, EveryBreachOfTheFormatIsRefusedWithItsReason) {
  for (const Refusal& refusal : Refusals()) {
    const auto contents = ParseText(refusal.file);
    ASSERT_TRUE(absl::IsDataLoss(contents.status())) << refusal.why << ": " << contents.status();
    EXPECT_THAT(std::string(contents.status().message()), ::testing::HasSubstr(refusal.message))
        << refusal.why;
  }
}

// 8 + 672 bytes of the golden are prefix and header. Every changed file is refused, or read with
// all views inside it.
TEST(Safetensors, NoByteOfTheHeaderCanLeadOutOfTheFile) {
  const std::string golden = Read(std::string(kGolden) + "single/model.safetensors");
  ASSERT_GT(golden.size(), 100u);
  RandomStream random(7);
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string file = golden;
    for (int flips = 1 + static_cast<int>(random.Below(3)); flips > 0; --flips) {
      file[random.Below(680)] = static_cast<char>(random.Below(128));
    }
    if (round % 10 == 0) file.resize(random.Below(static_cast<int64_t>(file.size())));
    const auto contents = ParseText(file);
    if (!contents.ok()) {
      ++refused;
      continue;
    }
    const auto all = std::as_bytes(std::span(file));
    for (const auto& [name, view] : contents->tensors) {
      ASSERT_GE(view.bytes.data(), all.data());
      ASSERT_LE(view.bytes.data() + view.bytes.size(), all.data() + all.size());
      ASSERT_EQ(*ByteSize(view.type, view.shape), static_cast<int64_t>(view.bytes.size()));
    }
  }
  EXPECT_GT(refused, 2000);
}

TEST(Safetensors, ByteSizeOfShapesAtTheEdges) {
  EXPECT_EQ(*ByteSize(TensorType::kF64, {}), 8);
  EXPECT_EQ(*ByteSize(TensorType::kBF16, std::vector<int64_t>{3, 0}), 0);
  EXPECT_FALSE(ByteSize(TensorType::kU8, std::vector<int64_t>{-1}).ok());
  EXPECT_FALSE(ByteSize(TensorType::kBF16, std::vector<int64_t>{int64_t{1} << 62}).ok());
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const ScratchFolder folder;
  const std::vector<float> floats = {1.5f, -2.0f};
  const std::vector<uint8_t> flags = {1, 0, 1};
  const std::vector<NamedTensor> tensors = {
      {"flags", {TensorType::kBool, {3}, std::as_bytes(std::span(flags))}},
      {"a \"quoted\" name", {TensorType::kF32, {2, 1}, std::as_bytes(std::span(floats))}},
      {"nothing", {TensorType::kI64, {0, 3}, {}}}};
  ASSERT_TRUE(WriteSafetensors(folder / "a.safetensors", tensors, {{"k", "v"}}).ok());
  const auto file = SafetensorsFile::Open(folder / "a.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("k"), "v");
  ASSERT_EQ((*file)->tensors().size(), 3u);
  for (const NamedTensor& named : tensors) {
    const TensorView& view = (*file)->tensors().at(named.name);
    EXPECT_EQ(view.type, named.tensor.type);
    EXPECT_EQ(view.shape, named.tensor.shape);
    EXPECT_TRUE(std::ranges::equal(view.bytes, named.tensor.bytes));
  }
}

// ours.safetensors was read by Python's library (make.py check): equal bytes are readable bytes.
TEST(Safetensors, TheWriterWritesTheBytesThatPythonReads) {
  const ScratchFolder folder;
  const auto golden = SafetensorsFile::Open(std::string(kGolden) + "single/model.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  EXPECT_EQ((*golden)->metadata().at("note"),
            "gr\xc3\xb6\xc3\x9f"
            "er");
  std::vector<NamedTensor> tensors;
  for (const auto& [name, view] : (*golden)->tensors()) tensors.push_back({name, view});
  ASSERT_TRUE(WriteSafetensors(folder / "ours", tensors, (*golden)->metadata()).ok());
  const std::string want = Read(std::string(kGolden) + "ours.safetensors");
  ASSERT_FALSE(want.empty());
  EXPECT_EQ(Read(folder / "ours"), want);
}

TEST(Safetensors, TheWriterRefusesWhatItsReaderWould) {
  const ScratchFolder folder;
  const std::vector<uint8_t> two = {1, 2};
  const TensorView view{TensorType::kU8, {2}, std::as_bytes(std::span(two))};
  const TensorView wrong{TensorType::kU8, {3}, std::as_bytes(std::span(two))};
  const auto write = [&](std::vector<NamedTensor> tensors) {
    return WriteSafetensors(folder / "a", tensors, {});
  };
  EXPECT_TRUE(write({{"x", view}}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(write({{"x", view}, {"x", view}})));
  EXPECT_TRUE(absl::IsInvalidArgument(write({{"__metadata__", view}})));
  EXPECT_TRUE(absl::IsInvalidArgument(write({{"\xff", view}})));
  EXPECT_TRUE(absl::IsInvalidArgument(write({{"x", wrong}})));
}

TEST(Safetensors, OpenTellsAMissingFileFromABrokenOne) {
  const ScratchFolder folder;
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(folder / "none").status()));
  Write(folder / "empty", "");
  EXPECT_TRUE(absl::IsDataLoss(SafetensorsFile::Open(folder / "empty").status()));
  EXPECT_TRUE(absl::IsDataLoss(SafetensorsFile::Open(folder.path()).status()));
}

}  // namespace
}  // namespace palimpsest::weights
