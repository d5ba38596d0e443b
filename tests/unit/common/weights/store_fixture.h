#pragma once

#include <gmock/gmock.h>

#include <filesystem>
#include <memory>
#include <string>

#include "common/weights/store.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::weights {

// A store in a scratch folder, with one writer and readers by name.
class StoreTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<StoreWriter>> TryWriter(const std::string& run, int64_t attempt,
                                                         int keep_last = 2) {
    return StoreWriter::Open(store_, {.run = run, .attempt = attempt, .keep_last = keep_last},
                             clock_);
  }
  std::unique_ptr<StoreWriter> Writer(int64_t attempt = 0) {
    auto writer = TryWriter("run", attempt);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return *std::move(writer);
  }
  std::unique_ptr<StoreReader> Reader(const std::string& name) {
    auto reader = StoreReader::Open(store_, {.reader = name, .lease = absl::Seconds(30)}, clock_);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }
  // A version of two files whose contents are a function of `contents`.
  static absl::StatusOr<PolicyVersion> TryPublish(StoreWriter& writer, int64_t step,
                                                  const std::string& contents) {
    return writer.Publish(step, [&](const std::string& folder) {
      Write(folder + "/config.json", "{}");
      Write(folder + "/model.safetensors", "weights of " + contents);
      return absl::OkStatus();
    });
  }
  static int64_t Publish(StoreWriter& writer, int64_t step, const std::string& contents) {
    const auto version = TryPublish(writer, step, contents);
    EXPECT_TRUE(version.ok()) << version.status();
    return version.ok() ? version->value() : -1;
  }
  int64_t Publish(StoreWriter& writer, int64_t step) {
    return Publish(writer, step, "step " + std::to_string(step));
  }
  std::string Folder(int64_t version) const {
    return store_ + "/" + FolderName(PolicyVersion(version));
  }
  std::string Shard(int64_t version) const { return Folder(version) + "/model.safetensors"; }
  bool Exists(int64_t version) const { return std::filesystem::exists(Folder(version)); }

  ScratchFolder scratch_;
  std::string store_ = scratch_ / "store";
  FakeClock clock_{absl::FromUnixSeconds(1'700'000'000)};
};

}  // namespace palimpsest::weights
