#include "absl/strings/str_replace.h"
#include "common/weights/durable_file.h"
#include "common/weights/store.h"
#include "tests/unit/common/weights/store_fixture.h"

// What a crash, a slow file system or a bad disk leaves behind, made by hand.
namespace palimpsest::weights {
namespace {

using ::testing::ElementsAre;
namespace fs = std::filesystem;

class Fault : public StoreTest {
 protected:
  Fault() {
    const auto writer = Writer();
    Publish(*writer, 1);
    Publish(*writer, 2);
  }
  // The store as a reader and the next writer must see it: version 2 is served.
  void ExpectReadersStayAtTwo() {
    const auto reader = Reader("a");
    EXPECT_EQ(*reader->Poll(), PolicyVersion(2));
    EXPECT_TRUE(reader->Verify(PolicyVersion(2)).ok());
    EXPECT_TRUE(absl::IsUnavailable(reader->Verify(PolicyVersion(3)).status()));
  }
  absl::Status Verify(int64_t version) {
    return Reader("a")->Verify(PolicyVersion(version)).status();
  }
};

TEST_F(Fault, CrashWhileFillingLeavesATemporaryFolderThatTheNextWriterDeletes) {
  fs::create_directory(store_ + "/.tmp-host-1-0");
  Write(store_ + "/.tmp-host-1-0/model.safetensors", "half");
  ExpectReadersStayAtTwo();
  const auto writer = Writer(1);
  EXPECT_THAT(*ListFolder(store_), ElementsAre("acks", "v00000001", "v00000002"));
  EXPECT_EQ(Publish(*writer, 3), 3);
}

TEST_F(Fault, CrashBeforeTheManifestLeavesAFolderThatIsEmptiedAndItsNumberIsNotUsedAgain) {
  fs::create_directory(Folder(3));
  Write(Shard(3), "weights of step 3");
  ExpectReadersStayAtTwo();
  { const auto writer = Writer(1); }
  EXPECT_THAT(*ListFolder(Folder(3)), ElementsAre());
  ExpectReadersStayAtTwo();
  // A third attempt, after one that published nothing, still knows that 3 was taken.
  const auto writer = Writer(2);
  EXPECT_EQ(Publish(*writer, 3), 4);
  EXPECT_TRUE(Verify(4).ok());
  EXPECT_EQ(Reader("a")->Verify(PolicyVersion(4))->manifest.parent, PolicyVersion(2));
  Publish(*writer, 4);
  EXPECT_FALSE(Exists(3));
}

TEST_F(Fault, CrashWhileTheManifestIsWrittenLeavesItsTemporaryFile) {
  fs::create_directory(Folder(3));
  Write(Shard(3), "weights of step 3");
  Write(Folder(3) + "/.tmp-host-1-1", Read(Folder(2) + "/manifest.json"));
  ExpectReadersStayAtTwo();
  EXPECT_EQ(Publish(*Writer(1), 3), 4);
}

TEST_F(Fault, AHalfWrittenManifestIsRefusedAndItsVersionReplaced) {
  const std::string manifest = Read(Folder(2) + "/manifest.json");
  Write(Folder(2) + "/manifest.json", manifest.substr(0, manifest.size() / 2));
  EXPECT_TRUE(absl::IsDataLoss(Verify(2))) << Verify(2);
  EXPECT_TRUE(Verify(1).ok());
  EXPECT_EQ(Publish(*Writer(1), 2), 3);
  EXPECT_TRUE(Verify(3).ok());
}

TEST_F(Fault, AManifestOfAnotherVersionIsRefused) {
  fs::copy_file(Folder(1) + "/manifest.json", Folder(2) + "/manifest.json",
                fs::copy_options::overwrite_existing);
  EXPECT_TRUE(absl::IsDataLoss(Verify(2)));
}

TEST_F(Fault, ATruncatedShardIsDataLossAndTheOlderVersionStays) {
  fs::resize_file(Shard(2), 5);
  EXPECT_TRUE(absl::IsDataLoss(Verify(2))) << Verify(2);
  EXPECT_TRUE(Verify(1).ok());
}

TEST_F(Fault, EveryFlippedBitOfAShardIsDataLoss) {
  const std::string whole = Read(Shard(2));
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    Write(Shard(2), flipped);
    EXPECT_TRUE(absl::IsDataLoss(Verify(2))) << i;
  }
  Write(Shard(2), whole);
  EXPECT_TRUE(Verify(2).ok());
}

TEST_F(Fault, AFlippedDigestInTheManifestIsDataLoss) {
  const std::string path = Folder(2) + "/manifest.json";
  std::string manifest = Read(path);
  char& digit = manifest[manifest.find("xxh3_128\": \"") + 12];
  digit = digit == '0' ? '1' : '0';
  Write(path, manifest);
  EXPECT_TRUE(absl::IsDataLoss(Verify(2))) << Verify(2);
}

TEST_F(Fault, AShardThatIsNotVisibleIsUnavailable) {
  fs::rename(Shard(2), Folder(2) + "/.nfs0001");
  EXPECT_TRUE(absl::IsUnavailable(Verify(2))) << Verify(2);
  fs::rename(Folder(2) + "/.nfs0001", Shard(2));
  EXPECT_TRUE(Verify(2).ok());
}

TEST_F(Fault, AFileThatTheManifestDoesNotListIsDataLoss) {
  Write(Folder(2) + "/model.safetensors.index.json", "{}");
  EXPECT_TRUE(absl::IsDataLoss(Verify(2)));
}

TEST_F(Fault, RepublishingADamagedNewestVersionRepairsByANewOne) {
  Write(Shard(2), "weights of stEp 2");
  EXPECT_EQ(Publish(*Writer(1), 2), 3);
  EXPECT_TRUE(Verify(3).ok());
}

TEST_F(Fault, CrashInTheMiddleOfGarbageCollectionIsFinishedByTheNextWriter) {
  fs::remove(Folder(1) + "/manifest.json");  // what CollectGarbage deletes first
  ExpectReadersStayAtTwo();
  Writer(1);
  EXPECT_FALSE(Exists(1));
  ExpectReadersStayAtTwo();
}

TEST_F(Fault, AManifestOfAFutureFormatStopsTheWriterInsteadOfBeingDeleted) {
  const std::string path = Folder(2) + "/manifest.json";
  Write(path, absl::StrReplaceAll(Read(path), {{"\"format\": 1", "\"format\": 2"}}));
  EXPECT_TRUE(absl::IsFailedPrecondition(TryWriter("run", 1).status()));
  EXPECT_TRUE(Exists(2));
  EXPECT_TRUE(absl::IsFailedPrecondition(Verify(2)));
}

TEST_F(Fault, AVersionDeletedUnderAReaderIsUnavailable) {
  const auto reader = Reader("late");
  const auto newest = *reader->Poll();
  ASSERT_EQ(newest, PolicyVersion(2));
  fs::remove_all(Folder(2));
  EXPECT_TRUE(absl::IsUnavailable(reader->Verify(*newest).status()));
  EXPECT_EQ(*reader->Poll(), PolicyVersion(1));
}

TEST_F(Fault, NamesThatAreNoVersionsAreLeftAlone) {
  Write(store_ + "/LATEST", "v00000002");
  fs::create_directory(store_ + "/v7");
  EXPECT_EQ(*Reader("a")->Poll(), PolicyVersion(2));
  EXPECT_EQ(Publish(*Writer(1), 3), 3);
  EXPECT_TRUE(fs::exists(store_ + "/v7"));
}

}  // namespace
}  // namespace palimpsest::weights
