#include "services/inference/server/weights_follower.h"

#include <gmock/gmock.h>

#include "common/telemetry/log.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "common/weights/canary.h"
#include "tests/unit/common/weights/scratch_folder.h"
#include "tests/unit/services/inference/server/scripted_engine.h"

namespace palimpsest::inference {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Canary(const std::vector<weights::CanaryPrompt>& prompts) {
  return weights::ToJson(prompts);
}

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

class WeightsFollowerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    writer_ = *weights::StoreWriter::Open(store_, {.run = "run"}, SystemClock());
  }
  int64_t Publish(int64_t step) {
    return writer_
        ->Publish(step,
                  [&](const std::string& folder) {
                    weights::Write(folder + "/model.safetensors", std::to_string(step));
                    return absl::OkStatus();
                  })
        ->value();
  }
  // The scripted engine says -id of each token.
  int64_t PublishWithCanary(int64_t step, const std::string& canary) {
    return writer_
        ->Publish(step,
                  [&](const std::string& folder) {
                    weights::Write(folder + "/model.safetensors", std::to_string(step));
                    weights::Write(folder + "/" + weights::kCanaryName, canary);
                    return absl::OkStatus();
                  })
        ->value();
  }
  std::string File(int64_t version) const {
    return store_ + "/" + weights::FolderName(PolicyVersion(version)) + "/model.safetensors";
  }
  void Start(absl::Duration poll = absl::Milliseconds(10)) {
    auto follower = WeightsFollower::Start(
        {.store = store_,
         .reader = "inference-0",
         .poll = poll,
         .lease = absl::Minutes(1),
         .first_version_wait = wait_,
         .retry = {.first_backoff = absl::Milliseconds(10), .max_backoff = absl::Milliseconds(20)},
         .make_engine = [this](const std::string& folder,
                               PolicyVersion version) -> absl::StatusOr<std::unique_ptr<Engine>> {
           first_folder_ = folder;
           if (!make_fails_.ok()) return make_fails_;
           auto engine = std::make_unique<ScriptedEngine>(version);
           engine_ = engine.get();
           return engine;
         },
         .canary_limit = 0.5,
         .live =
             [this](const absl::Status& doubt) {
               serving_.SetDoubt(doubt);
               ready_ = true;
             },
         .gave_up =
             [this](const absl::Status& status) {
               gave_up_ = status.ToString();
               told_ = true;
             }},
        serving_, telemetry_, SystemClock());
    ASSERT_TRUE(follower.ok()) << follower.status();
    follower_ = *std::move(follower);
  }
  bool Serves(int64_t version) {
    return Eventually(
        [&] { return ready_ && serving_.engine()->version() == PolicyVersion(version); });
  }
  absl::StatusOr<UpdateResult> Apply(const Announcement& announcement) {
    return follower_->Apply(announcement, WeightsMode::kKeep, absl::Now() + absl::Seconds(10));
  }

  ScopedLogSink quiet_{[](const std::string&) {}};
  weights::ScratchFolder scratch_;
  const std::string store_ = scratch_ / "store";
  absl::Duration wait_ = absl::Minutes(1);
  Metrics metrics_{"inference", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
  Serving serving_;
  ScriptedEngine* engine_ = nullptr;
  absl::Status make_fails_;
  std::string first_folder_, gave_up_;
  std::atomic<bool> ready_{false}, told_{false};
  std::unique_ptr<weights::StoreWriter> writer_;
  std::unique_ptr<WeightsFollower> follower_;
};

TEST_F(WeightsFollowerTest, WaitsForTheFirstVersionThenFollowsTheNewest) {
  Start();
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(serving_.engine(), nullptr);
  EXPECT_EQ(Publish(1), 1);
  ASSERT_TRUE(Serves(1));
  EXPECT_THAT(first_folder_, EndsWith("/v00000001"));
  EXPECT_EQ(Publish(2), 2);
  ASSERT_TRUE(Serves(2));
  EXPECT_THAT(engine_->folders(), ElementsAre(EndsWith("/v00000002")));
}

TEST_F(WeightsFollowerTest, WeightsThatSayOtherThanTheirWriterSaysAreServedAndDoubted) {
  Start();
  PublishWithCanary(1, Canary({{{5, 6, 7}, {-6.25f, -7}}}));
  ASSERT_TRUE(Serves(1));
  EXPECT_TRUE(Eventually(
      [&] { return metrics_.Text().find("canary_max_abs_nats 0.25") != std::string::npos; }));
  EXPECT_TRUE(serving_.doubt().ok()) << serving_.doubt();
  const std::pair<std::string, const char*> doubtful[] = {
      {Canary({{{5, 6}, {-6}}, {{5, 6, 7}, {-6, -7.75f}}}), "0.75 nats off"}, {"{}", "prompts"}};
  for (int64_t step = 2; const auto& [canary, why] : doubtful) {
    EXPECT_EQ(PublishWithCanary(step, canary), step);
    ASSERT_TRUE(Serves(step));
    EXPECT_TRUE(Eventually([&] { return !serving_.doubt().ok(); }));
    EXPECT_THAT(serving_.doubt().message(), HasSubstr(why));
    EXPECT_TRUE(serving_.Admit().ok());
    ++step;
    PublishWithCanary(step, Canary({{{5, 6}, {-6}}}));
    ASSERT_TRUE(Serves(step));
    EXPECT_TRUE(Eventually([&] { return serving_.doubt().ok(); })) << serving_.doubt();
    ++step;
  }
  Publish(7);  // a version without canary prompts is believed
  ASSERT_TRUE(Serves(6));
  EXPECT_TRUE(serving_.doubt().ok());
}

TEST_F(WeightsFollowerTest, TheChatTemplateOfTheFirstVersionIsServed) {
  const auto fill = [](const std::string& folder) {
    const std::vector<std::string> special{"<|im_start|>", "<|im_end|>"};
    weights::Write(folder + "/model.safetensors", "1");
    weights::Write(folder + "/tokenizer.json", *ByteTokenizerJson(special));
    weights::Write(folder + "/chat_template.jinja",
                   weights::Read("tests/golden/tokenizer/chat/chatml.jinja"));
    return absl::OkStatus();
  };
  ASSERT_TRUE(writer_->Publish(1, fill).ok());
  Start();
  ASSERT_TRUE(Serves(1));
  ASSERT_NE(serving_.chat(), nullptr);
  EXPECT_TRUE(serving_.chat()->own().ok()) << serving_.chat()->own().status();
}

TEST_F(WeightsFollowerTest, AcknowledgesWhatItServesAndReleasesAtTheEnd) {
  Publish(1);
  Start();
  ASSERT_TRUE(Serves(1));
  const auto acknowledged = [&] {
    const auto leases = weights::ReadLeases(store_);
    return leases.ok() && leases->size() == 1 && leases->front().version == PolicyVersion(1);
  };
  EXPECT_TRUE(Eventually(acknowledged));
  follower_.reset();
  EXPECT_THAT(*weights::ReadLeases(store_), IsEmpty());
}

TEST_F(WeightsFollowerTest, ACorruptVersionIsNotServedAndALaterGoodOneIs) {
  Publish(1);
  Start();
  ASSERT_TRUE(Serves(1));
  follower_.reset();  // so that it cannot see version 2 before it is broken
  Publish(2);
  weights::Write(File(2), "x");
  ready_ = false;
  Start();
  EXPECT_TRUE(Eventually([&] {
    return metrics_.Text().find("weights_failures_total{code=\"DATA_LOSS\"} 1") !=
           std::string::npos;
  }));
  EXPECT_EQ(serving_.engine()->version(), PolicyVersion(1));
  EXPECT_THAT(engine_->folders(), IsEmpty());
  ready_ = true;
  Publish(3);
  EXPECT_TRUE(Serves(3));
  EXPECT_THAT(engine_->folders(), ElementsAre(EndsWith("/v00000003")));
}

TEST_F(WeightsFollowerTest, AVersionThatTheEngineRefusesIsTriedAgainAndTheOldOneStays) {
  Publish(1);
  Start();
  ASSERT_TRUE(Serves(1));
  engine_->RefuseFolders(absl::InvalidArgumentError("another shape"));
  Publish(2);
  EXPECT_TRUE(Eventually([&] { return engine_->folders().size() >= 2; }));
  EXPECT_EQ(serving_.engine()->version(), PolicyVersion(1));
  engine_->RefuseFolders(absl::OkStatus());
  EXPECT_TRUE(Serves(2));
}

TEST_F(WeightsFollowerTest, AnAnnouncementIsObeyedAtOnceAndTwiceDoesNothing) {
  Publish(1);
  Start(absl::Hours(1));  // polls once
  ASSERT_TRUE(Serves(1));
  Publish(2);
  const auto first = Apply({.version = PolicyVersion(2)});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->version, PolicyVersion(2));
  EXPECT_FALSE(first->already_live);
  EXPECT_TRUE(Apply({.version = PolicyVersion(2)})->already_live);
  EXPECT_EQ(engine_->folders().size(), 1u);
}

TEST_F(WeightsFollowerTest, AnAnnouncementThatDoesNotHoldChangesNothing) {
  Publish(1);
  Publish(2);
  Start(absl::Hours(1));
  ASSERT_TRUE(Serves(2));
  EXPECT_TRUE(absl::IsNotFound(Apply({.version = PolicyVersion(9)}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Apply({.version = PolicyVersion(1)}).status()));
  Publish(3);
  Announcement wrong{.version = PolicyVersion(3),
                     .source = Announcement::Source{.run = "run", .source_step = 7}};
  EXPECT_THAT(std::string(Apply(wrong).status().message()), HasSubstr("weights.source_step=7"));
  const Announcement digest{.version = PolicyVersion(3), .manifest_digest = std::string(32, '0')};
  EXPECT_TRUE(absl::IsDataLoss(Apply(digest).status()));
  EXPECT_EQ(serving_.engine()->version(), PolicyVersion(2));
  wrong.source->source_step = 3;
  wrong.source->parent = PolicyVersion(2);
  EXPECT_TRUE(Apply(wrong).ok()) << Apply(wrong).status();
}

TEST_F(WeightsFollowerTest, GivesUpWhenNoVersionComes) {
  wait_ = absl::Milliseconds(50);
  Start();
  ASSERT_TRUE(Eventually([&] { return told_.load(); }));
  EXPECT_THAT(gave_up_, HasSubstr("DEADLINE_EXCEEDED"));
  EXPECT_THAT(gave_up_, HasSubstr("first_version_wait"));
  EXPECT_FALSE(ready_);
}

TEST_F(WeightsFollowerTest, GivesUpWithTheReasonWhyTheVersionThatIsThereCannotBeServed) {
  wait_ = absl::Milliseconds(50);
  make_fails_ = absl::InvalidArgumentError("model_type=\"t5\" is unknown");
  Publish(1);
  Start();
  ASSERT_TRUE(Eventually([&] { return told_.load(); }));
  EXPECT_THAT(gave_up_, HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(gave_up_, HasSubstr("version 1: model_type=\"t5\" is unknown"));
}

}  // namespace
}  // namespace palimpsest::inference
