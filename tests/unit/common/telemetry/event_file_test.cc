#include "common/telemetry/event_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

// The check value of CRC-32C in the catalogue of CRCs: 0xe3069283 for "123456789".
TEST(EventFileTest, TheChecksumIsTheOneOfTheCatalogue) {
  const uint32_t crc = 0xe3069283u;
  EXPECT_EQ(MaskedCrc32c("123456789"), ((crc >> 15) | (crc << 17)) + 0xa282ead8u);
}

TEST(EventFileTest, TheLastStepThatStandsWholeIsFoundWhereverTheFileIsCut) {
  const weights::ScratchFolder scratch;
  const std::string path = scratch / "events.out.tfevents.1";
  std::vector<uintmax_t> sizes;
  {
    auto file = EventFile::Create(path, absl::FromUnixSeconds(5)).value();
    sizes.push_back(std::filesystem::file_size(path));
    for (const int64_t step : {3, 200, 70000}) {
      ASSERT_TRUE(file->Add(absl::FromUnixSeconds(6), step, {{"reward", 0.5}, {"loss", 1}}).ok());
      sizes.push_back(std::filesystem::file_size(path));  // at once
    }
    EXPECT_TRUE(absl::IsAlreadyExists(EventFile::Create(path, absl::Now()).status()));
  }
  const std::optional<int64_t> wanted[] = {std::nullopt, 3, 200, 70000};
  for (size_t whole = 4; whole-- > 0;) {
    std::filesystem::resize_file(path, sizes[whole]);
    EXPECT_EQ(LastStepOfEventFile(path), wanted[whole]);
    if (whole == 0) break;
    std::filesystem::resize_file(path, sizes[whole] - 1);
    EXPECT_EQ(LastStepOfEventFile(path), wanted[whole - 1]);
  }
  EXPECT_EQ(LastStepOfEventFile(path + ".none"), std::nullopt);
}

TEST(EventFileTest, WhatIsNoRecordEndsTheReading) {
  const weights::ScratchFolder scratch;
  const std::string path = scratch / "events.out.tfevents.1";
  {
    auto file = EventFile::Create(path, absl::FromUnixSeconds(5)).value();
    ASSERT_TRUE(file->Add(absl::FromUnixSeconds(6), 3, {{"reward", 0.5}}).ok());
  }
  const uintmax_t size = std::filesystem::file_size(path);
  std::ofstream(path, std::ios::app) << std::string(100, '\xff');
  EXPECT_EQ(LastStepOfEventFile(path), 3);
  std::filesystem::resize_file(path, size);
  std::fstream(path, std::ios::in | std::ios::out).seekp(static_cast<long>(size) - 6) << 'x';
  EXPECT_EQ(LastStepOfEventFile(path), std::nullopt);  // its checksum does not fit
}

}  // namespace
}  // namespace palimpsest
