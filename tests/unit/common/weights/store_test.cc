#include "common/weights/store.h"

#include "common/weights/durable_file.h"
#include "tests/unit/common/weights/store_fixture.h"

namespace palimpsest::weights {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int64_t> Numbers(const std::vector<PolicyVersion>& versions) {
  std::vector<int64_t> numbers;
  for (const PolicyVersion v : versions) numbers.push_back(v.value());
  return numbers;
}

using Publishing = StoreTest;
using Retention = StoreTest;
using Reading = StoreTest;

TEST_F(Publishing, MakesAVersionThatAReaderFindsAndVerifies) {
  const auto writer = Writer(3);
  const auto reader = Reader("a");
  EXPECT_EQ(*reader->Poll(), std::nullopt);
  EXPECT_EQ(Publish(*writer, 5), 1);
  ASSERT_EQ(*reader->Poll(), PolicyVersion(1));
  const auto info = reader->Verify(PolicyVersion(1));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(Read(info->folder + "/model.safetensors"), "weights of step 5");
  EXPECT_EQ(info->manifest.parent, std::nullopt);
  EXPECT_EQ(info->manifest.run, "run");
  EXPECT_EQ(info->manifest.attempt, 3);
  EXPECT_EQ(info->manifest.source_step, 5);
  EXPECT_EQ(info->manifest.created, clock_.Now());
  ASSERT_EQ(info->manifest.files.size(), 2u);
  EXPECT_EQ(info->manifest.files[1].name, "model.safetensors");
  EXPECT_EQ(info->manifest.files[1].size, 17);
  EXPECT_THAT(*ListFolder(store_), ElementsAre("acks", "v00000001"));
}

TEST_F(Publishing, TheSameStepWithEqualBytesIsTheVersionThatIsThere) {
  const auto writer = Writer();
  EXPECT_EQ(Publish(*writer, 1), 1);
  const std::string manifest = Read(Folder(1) + "/manifest.json");
  EXPECT_EQ(Publish(*writer, 1), 1);
  EXPECT_EQ(Publish(*Writer(1), 1), 1);  // the next attempt as well
  EXPECT_EQ(Read(Folder(1) + "/manifest.json"), manifest);
  EXPECT_THAT(*ListFolder(store_), ElementsAre("acks", "v00000001"));
}

TEST_F(Publishing, OtherBytesOrAnotherStepAreANewVersion) {
  const auto writer = Writer();
  EXPECT_EQ(Publish(*writer, 1, "x"), 1);
  EXPECT_EQ(Publish(*writer, 1, "y"), 2);
  EXPECT_EQ(Publish(*writer, 2, "y"), 3);
}

TEST_F(Publishing, VersionsRiseOverAttemptsAndNameTheirParent) {
  const auto first = Writer(0);
  for (int64_t step = 1; step <= 4; ++step) EXPECT_EQ(Publish(*first, step), step);
  // The restart goes on from the checkpoint of step 2: steps 3 and 4 are abandoned.
  const auto second = Writer(1);
  EXPECT_EQ(Publish(*second, 3), 5);  // equal to version 3, which is not the newest
  EXPECT_EQ(Publish(*second, 4, "another"), 6);
  const auto reader = Reader("a");
  EXPECT_EQ(reader->Verify(PolicyVersion(5))->manifest.parent, PolicyVersion(2));
  EXPECT_EQ(reader->Verify(PolicyVersion(6))->manifest.parent, PolicyVersion(5));
  EXPECT_EQ(reader->Verify(PolicyVersion(6))->manifest.attempt, 1);
}

TEST_F(Publishing, WhenFillFailsNothingIsLeft) {
  const auto writer = Writer();
  const auto status = writer->Publish(1, [](const std::string& folder) {
    Write(folder + "/model.safetensors", "half");
    return absl::ResourceExhaustedError("disk full");
  });
  EXPECT_TRUE(absl::IsResourceExhausted(status.status()));
  EXPECT_THAT(*ListFolder(store_), ElementsAre("acks"));
}

TEST_F(Publishing, OnlyPlainVisibleFilesMakeAVersion) {
  const auto writer = Writer();
  const auto publish = [&](const std::function<void(const std::string&)>& make) {
    return writer->Publish(1, [&](const std::string& folder) {
      make(folder);
      return absl::OkStatus();
    });
  };
  namespace fs = std::filesystem;
  EXPECT_FALSE(publish([](const std::string&) {}).ok());
  EXPECT_FALSE(publish([](const std::string& f) { Write(f + "/.hidden", "x"); }).ok());
  EXPECT_FALSE(publish([](const std::string& f) { Write(f + "/manifest.json", "{}"); }).ok());
  EXPECT_FALSE(publish([](const std::string& f) { fs::create_directory(f + "/sub"); }).ok());
  EXPECT_FALSE(publish([](const std::string& f) { fs::create_symlink("/", f + "/a"); }).ok());
  EXPECT_TRUE(publish([](const std::string& f) { Write(f + "/a", "x"); }).ok());
}

TEST_F(Publishing, WrongArgumentsAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(TryWriter("", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TryWriter("run", -1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TryWriter("run", 0, 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TryPublish(*Writer(), -1, "x").status()));
}

TEST_F(Publishing, AStoreBelongsToOneRun) {
  Publish(*Writer(), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(TryWriter("another", 0).status()));
  EXPECT_TRUE(Exists(1));
}

TEST_F(Retention, KeepsWhatALiveReaderServesAndAllAfterIt) {
  const auto writer = Writer();
  const auto slow = Reader("slow");
  const auto fast = Reader("fast");
  for (int64_t step = 1; step <= 5; ++step) Publish(*writer, step);
  ASSERT_TRUE(slow->Acknowledge(PolicyVersion(2)).ok());
  ASSERT_TRUE(fast->Acknowledge(PolicyVersion(5)).ok());
  EXPECT_THAT(Numbers(*writer->CollectGarbage()), ElementsAre(1));
  EXPECT_FALSE(Exists(1));
  EXPECT_TRUE(slow->Verify(PolicyVersion(2)).ok());
  EXPECT_THAT(*writer->CollectGarbage(), IsEmpty());
}

TEST_F(Retention, AnExpiredReaderHoldsNothingAndARenewedOneDoes) {
  const auto writer = Writer();
  const auto dead = Reader("dead");
  const auto live = Reader("live");
  for (int64_t step = 1; step <= 5; ++step) Publish(*writer, step);
  ASSERT_TRUE(dead->Acknowledge(PolicyVersion(1)).ok());
  ASSERT_TRUE(live->Acknowledge(PolicyVersion(3)).ok());
  EXPECT_THAT(*writer->CollectGarbage(), IsEmpty());
  clock_.Advance(absl::Seconds(20));
  ASSERT_TRUE(live->RenewLease().ok());
  clock_.Advance(absl::Seconds(20));
  EXPECT_THAT(Numbers(*writer->CollectGarbage()), ElementsAre(1, 2));
  clock_.Advance(absl::Seconds(20));
  EXPECT_THAT(Numbers(*writer->CollectGarbage()), ElementsAre(3));
}

TEST_F(Retention, AReaderThatStartsHoldsTheStoreUntilItLeaves) {
  const auto writer = Writer();
  const auto starting = Reader("starting");
  for (int64_t step = 1; step <= 4; ++step) Publish(*writer, step);
  ASSERT_TRUE(starting->RenewLease().ok());
  EXPECT_THAT(*writer->CollectGarbage(), IsEmpty());
  ASSERT_TRUE(starting->Release().ok());
  ASSERT_TRUE(starting->Release().ok());  // twice is no error
  EXPECT_THAT(Numbers(*writer->CollectGarbage()), ElementsAre(1, 2));
}

TEST_F(Retention, ALeaseThatCannotBeReadStopsIt) {
  const auto writer = Writer();
  for (int64_t step = 1; step <= 4; ++step) Publish(*writer, step);
  Write(store_ + "/acks/strange.json", "{");
  EXPECT_TRUE(absl::IsDataLoss(writer->CollectGarbage().status()));
  EXPECT_TRUE(Exists(1));
}

TEST_F(Retention, LeavesTheNumbersOfTheDeletedTaken) {
  const auto writer = Writer();
  for (int64_t step = 1; step <= 4; ++step) Publish(*writer, step);
  ASSERT_TRUE(writer->CollectGarbage().ok());
  EXPECT_EQ(Publish(*Writer(1), 1), 5);
}

TEST_F(Reading, AStoreThatIsNotThereIsUnavailable) {
  const auto reader = Reader("a");
  EXPECT_TRUE(absl::IsUnavailable(reader->Poll().status()));
  EXPECT_TRUE(absl::IsUnavailable(reader->Verify(PolicyVersion(1)).status()));
}

TEST_F(Reading, ReadersNeedANameAndALease) {
  EXPECT_FALSE(StoreReader::Open(store_, {.reader = "../x"}, clock_).ok());
  EXPECT_FALSE(
      StoreReader::Open(store_, {.reader = "x", .lease = absl::ZeroDuration()}, clock_).ok());
}

TEST_F(Reading, TwoReadersKeepSeparateLeases) {
  Writer();
  ASSERT_TRUE(Reader("a")->Acknowledge(PolicyVersion(1)).ok());
  ASSERT_TRUE(Reader("b")->Acknowledge(PolicyVersion(2)).ok());
  const auto leases = ReadLeases(store_);
  ASSERT_TRUE(leases.ok()) << leases.status();
  EXPECT_THAT(*leases, ElementsAre(Lease{"a", PolicyVersion(1), clock_.Now() + absl::Seconds(30)},
                                   Lease{"b", PolicyVersion(2), clock_.Now() + absl::Seconds(30)}));
}

}  // namespace
}  // namespace palimpsest::weights
