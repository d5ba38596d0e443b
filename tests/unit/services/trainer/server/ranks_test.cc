#include "services/trainer/server/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "palimpsest/v1/trainer.pb.h"

namespace palimpsest::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What rank 0 of two has told and rank 1 not yet heard, and whether they have parted.
struct Wire {
  absl::Mutex mu;
  std::deque<std::string> told;
  absl::Status parted;
};

// One end of it; of a collective only what the commands need.
class WireEnd final : public Collective {
 public:
  WireEnd(Wire& wire, int rank) : wire_(wire), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return 2; }
  absl::Status Broadcast(int, std::string& bytes, absl::Duration) override {
    const absl::MutexLock lock(&wire_.mu);
    if (rank_ == 0) {
      if (wire_.parted.ok()) wire_.told.push_back(bytes);
      return wire_.parted;
    }
    const auto heard = [this] { return !wire_.told.empty() || !wire_.parted.ok(); };
    wire_.mu.Await(absl::Condition(&heard));
    RETURN_IF_ERROR(wire_.parted);
    bytes = wire_.told.front();
    wire_.told.pop_front();
    return absl::OkStatus();
  }
  void Fail(const absl::Status& why) override {
    const absl::MutexLock lock(&wire_.mu);
    wire_.parted = why;
  }
  absl::Status health() const override {
    const absl::MutexLock lock(&wire_.mu);
    return wire_.parted;
  }
  absl::Status AllGather(std::span<const float>, std::span<float>) override { return Unused(); }
  absl::Status ReduceScatter(std::span<float>, std::span<float>) override { return Unused(); }
  absl::Status AllReduce(std::span<float>) override { return Unused(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view) override {
    return Unused();
  }
  absl::Status Barrier() override { return Unused(); }

 private:
  static absl::Status Unused() { return absl::UnimplementedError("not for commands"); }
  Wire& wire_;
  const int rank_;
};

// Writes down what it is asked to do.
class NotingTrainer final : public Trainer {
 public:
  const TrainerInfo& info() const override { return info_; }
  Phase phase() const override { return Phase::kIdle; }
  int64_t step() const override { return 0; }
  int64_t durable_step() const override { return 0; }
  int64_t saving_step() const override { return 0; }
  int64_t save_failures() const override { return 0; }
  std::string last_batch_id() const override { return ""; }
  absl::StatusOr<std::vector<PublishedVersion>> Published() const override {
    return std::vector<PublishedVersion>();
  }
  absl::Status Sound() const override { return absl::OkStatus(); }
  absl::StatusOr<TrainOutcome> Train(const Batch& batch) override {
    notes.push_back(batch.id + " with " + std::to_string(batch.sft.size()));
    return train;
  }
  absl::StatusOr<PublishedVersion> Publish() override {
    notes.push_back("publish");
    return PublishedVersion{};
  }
  absl::Status BeginSave() override {
    notes.push_back("begin save");
    return absl::OkStatus();
  }
  absl::Status Save() override {
    notes.push_back("save");
    return absl::ResourceExhaustedError("disk full");
  }

  std::vector<std::string> notes;
  absl::StatusOr<TrainOutcome> train = TrainOutcome{};

 private:
  TrainerInfo info_;
};

Batch BatchWithSource() {
  v1::TrainBatchRequest request;
  request.set_batch_id("b7");
  request.set_step(7);
  request.set_kind(v1::BATCH_KIND_SFT);
  request.add_items()->mutable_sft()->add_ids(1);
  return {.id = "b7", .step = 7, .sft = {SftItem{}}, .source = request.SerializeAsString()};
}

class RanksTest : public ::testing::Test {
 protected:
  // Rank 1 until it ends.
  absl::Status FollowWhile(const std::function<void()>& leading) {
    absl::Status followed;
    std::thread rank_1([&] {
      WireEnd end(wire_, 1);
      followed = Follow(second_, end);
    });
    leading();
    rank_1.join();
    return followed;
  }

  Wire wire_;
  WireEnd first_end_{wire_, 0};
  NotingTrainer first_, second_;
  int broken_ = 0;
  LeadingTrainer leading_{first_, first_end_, [this] { ++broken_; }};
};

TEST_F(RanksTest, AllRanksTrainTheSameBatchPublishAndSave) {
  const absl::Status followed = FollowWhile([&] {
    EXPECT_TRUE(leading_.Train(BatchWithSource()).ok());
    EXPECT_TRUE(leading_.Publish().ok());
    EXPECT_TRUE(leading_.BeginSave().ok());
    EXPECT_TRUE(absl::IsResourceExhausted(leading_.Save()));
    EXPECT_TRUE(leading_.End().ok());
  });
  EXPECT_TRUE(followed.ok()) << followed;
  EXPECT_THAT(first_.notes, ElementsAre("b7 with 1", "publish", "begin save", "save"));
  EXPECT_THAT(second_.notes, ElementsAre("b7 with 1", "publish", "begin save", "save"));
  EXPECT_EQ(broken_, 0);  // a full disk does not part the ranks
}

TEST_F(RanksTest, WhenTheRanksHavePartedEveryCallSaysSoAndTheDaemonIsTold) {
  const absl::Status lost = absl::AbortedError("rank 1 of 2 does not answer");
  const absl::Status followed = FollowWhile([&] { first_end_.Fail(lost); });
  EXPECT_EQ(followed, lost);
  for (const absl::Status& answer :
       {leading_.Train(BatchWithSource()).status(), leading_.Publish().status(), leading_.Save()}) {
    EXPECT_TRUE(absl::IsUnavailable(answer)) << answer;
    EXPECT_THAT(std::string(answer.message()), HasSubstr("rank 1 of 2 does not answer"));
  }
  EXPECT_EQ(leading_.End(), lost);
  EXPECT_EQ(broken_, 3);
  EXPECT_TRUE(first_.notes.empty());
}

TEST_F(RanksTest, ACommandThatIsNoneEndsTheFollower) {
  const absl::Status followed = FollowWhile([&] {
    std::string nonsense = "Tnonsense";
    EXPECT_TRUE(first_end_.Broadcast(0, nonsense, absl::InfiniteDuration()).ok());
  });
  EXPECT_TRUE(absl::IsDataLoss(followed)) << followed;
}

}  // namespace
}  // namespace palimpsest::trainer
