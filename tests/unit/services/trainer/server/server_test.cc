#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>

#include "common/wire/rollout.h"
#include "services/trainer/core/admission.h"
#include "services/trainer/core/step_ledger.h"
#include "services/trainer/server/service.h"

namespace palimpsest::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A trainer without numbers: it remembers steps and can be held in the middle of one.
class ScriptedTrainer final : public Trainer {
 public:
  const TrainerInfo& info() const override { return info_; }
  Phase phase() const override { return Phase::kIdle; }
  int64_t step() const override { return ledger_.step(); }
  int64_t durable_step() const override { return durable_; }
  int64_t saving_step() const override { return saving_; }
  int64_t save_failures() const override { return failures_; }
  std::string last_batch_id() const override {
    return ledger_.results().empty() ? "" : ledger_.results().back().batch_id;
  }
  absl::StatusOr<std::vector<PublishedVersion>> Published() const override { return published_; }

  absl::Status Sound() const override {
    return broken ? absl::FailedPreconditionError("not finite") : absl::OkStatus();
  }

  absl::StatusOr<TrainOutcome> Train(const Batch& batch) override {
    RETURN_IF_ERROR(Validate(batch));
    ASSIGN_OR_RETURN(auto known, ledger_.Find(batch.step, batch.id));
    if (known) return TrainOutcome{*known, true};
    RETURN_IF_ERROR(Sound());
    entered.Notify();
    if (hold) go_on.WaitForNotification();
    ledger_.Add({.step = batch.step,
                 .batch_id = batch.id,
                 .loss = 0.5,
                 .mismatch = {{2, 3, 0.1, 0.2, 0.3}},
                 .ratio = RatioStats{.mean = 1, .masked_share = 0.25},
                 .reference_kl = 0.125,
                 .distilled = 0.375,
                 .views = rl::ViewReport{.tokens = 3,
                                         .dense_shadow = 0.25,
                                         .shadow_dense_p99 = 4,
                                         .bins = {{2048, 4096, 3, 0.75}}},
                 .rejected = batch.unreadable});
    return TrainOutcome{ledger_.results().back(), false, replayed};
  }
  absl::StatusOr<PublishedVersion> Publish() override {
    if (published_.empty() || published_.back().source_step != step()) {
      const auto number = static_cast<int64_t>(published_.size()) + 1;
      published_.push_back({.version = PolicyVersion(number), .source_step = step()});
    }
    return published_.back();
  }
  // Ends when it is told to, by EndWrite or Save.
  absl::Status BeginSave() override {
    saving_ = step();
    if (!slow_disk) EndWrite();
    return absl::OkStatus();
  }
  void EndWrite() {
    if (disk_full) {
      ++failures_;
      saving_ = durable_.load();
    } else {
      durable_ = saving_.load();
    }
  }
  absl::Status Save() override {
    saving_ = step();
    EndWrite();
    return disk_full ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
  }

  std::atomic<bool> hold = false, disk_full = false, slow_disk = false, broken = false;
  std::vector<rl::Replayed> replayed;
  absl::Notification go_on;
  struct Once {
    absl::Notification note;
    void Notify() {
      if (!note.HasBeenNotified()) note.Notify();
    }
  } entered;

 private:
  TrainerInfo info_{.layers = 2, .kv_heads = 1, .vocab = 9};
  StepLedger ledger_;
  std::atomic<int64_t> durable_ = 0, saving_ = 0, failures_ = 0;
  std::vector<PublishedVersion> published_;
};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::TrainerService::NewStub(server_->InProcessChannel({}));
  }
  ~ServerTest() override {
    trainer_.hold = false;
    server_->Shutdown();
    service_.Finish().IgnoreError();
  }

  static v1::TrainBatchRequest Sft(int64_t step, const std::string& id) {
    v1::TrainBatchRequest request;
    request.set_step(step);
    request.set_batch_id(id);
    request.set_kind(v1::BATCH_KIND_SFT);
    v1::SftItem& item = *request.add_items()->mutable_sft();
    item.set_id("demo");
    for (int i = 0; i < 3; ++i) {
      item.add_ids(i);
      item.add_loss_mask(true);
    }
    item.set_prompt_tokens(1);
    item.set_weight(1);
    return request;
  }

  template <class Request, class Response>
  grpc::Status Call(grpc::Status (v1::TrainerService::Stub::*method)(grpc::ClientContext*,
                                                                     const Request&, Response*),
                    const Request& request, Response* response,
                    absl::Duration timeout = absl::Seconds(20)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(SystemClock().Now() + timeout));
    return (stub_.get()->*method)(&context, request, response);
  }
  grpc::Status Train(const v1::TrainBatchRequest& request, v1::TrainBatchResponse* response,
                     absl::Duration timeout = absl::Seconds(20)) {
    return Call(&v1::TrainerService::Stub::TrainBatch, request, response, timeout);
  }
  v1::GetStatusResponse Status() {
    v1::GetStatusResponse response;
    EXPECT_TRUE(Call(&v1::TrainerService::Stub::GetStatus, {}, &response).ok());
    return response;
  }

  ScriptedTrainer trainer_;
  Metrics metrics_{"trainer", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
  std::atomic<bool> drained_ = false;
  TrainerServer service_{{.checkpoint_every = 2, .drained = [this] { drained_ = true; }},
                         trainer_,
                         telemetry_,
                         SystemClock()};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::TrainerService::Stub> stub_;
};

TEST_F(ServerTest, AStepIsTakenOnceAndItsResultIsTheSameForARepeatedCall) {
  v1::TrainBatchResponse first, again;
  ASSERT_TRUE(Train(Sft(1, "a"), &first).ok());
  ASSERT_TRUE(Train(Sft(1, "a"), &again).ok());
  EXPECT_FALSE(first.already_trained());
  EXPECT_TRUE(again.already_trained());
  again.set_already_trained(false);
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(Status().step(), 1);
  EXPECT_EQ(Status().last_batch_id(), "a");
  EXPECT_EQ(first.ratio().masked_share(), 0.25);
  EXPECT_EQ(first.reference_kl(), 0.125);
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_mismatch_kl{events=\"2\"} 0.1"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_masked_share 0.25"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_reference_kl 0.125"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_distillation_loss 0.375"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_view_kl{direction=\"dense_shadow\"} 0.25"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_view_kl_p99{direction=\"shadow_dense\"} 4"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_view_acceptance_p5{from=\"2048\"} 0.75"));
}

TEST_F(ServerTest, WhatWasReplayedStandsInTheAnswerRolloutByRollout) {
  trainer_.replayed = {{"b", {-0.5f, -1e-7f}}, {"a", {-3}}};
  v1::TrainBatchResponse response;
  ASSERT_TRUE(Train(Sft(1, "x"), &response).ok());
  ASSERT_EQ(response.replayed_size(), 2);
  EXPECT_EQ(response.replayed(0).rollout_id(), "b");
  EXPECT_THAT(response.replayed(0).logprobs(), ElementsAre(-0.5f, -1e-7f));
  EXPECT_THAT(response.replayed(1).logprobs(), ElementsAre(-3));
}

TEST_F(ServerTest, GapsAndOtherBatchesAreRefusedNamingTheNumbers) {
  v1::TrainBatchResponse response;
  const grpc::Status gap = Train(Sft(2, "b"), &response);
  EXPECT_EQ(gap.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(gap.error_message(), HasSubstr("step=2"));
  v1::TrainBatchRequest mixed = Sft(1, "a");
  mixed.set_kind(v1::BATCH_KIND_RL);
  EXPECT_EQ(Train(mixed, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerTest, CheckpointsAreTakenEveryFewStepsAndAFullDiskDoesNotStopTheSteps) {
  v1::TrainBatchResponse response;
  ASSERT_TRUE(Train(Sft(1, "1"), &response).ok());
  EXPECT_EQ(Status().durable_step(), 0);
  ASSERT_TRUE(Train(Sft(2, "2"), &response).ok());
  EXPECT_EQ(Status().durable_step(), 2);
  trainer_.disk_full = true;
  for (int step : {3, 4, 5}) {
    ASSERT_TRUE(Train(Sft(step, std::to_string(step)), &response).ok());
  }
  EXPECT_EQ(Status().durable_step(), 2);
  v1::SaveCheckpointRequest save;
  save.set_wait(true);
  v1::SaveCheckpointResponse saved;
  EXPECT_EQ(Call(&v1::TrainerService::Stub::SaveCheckpoint, save, &saved).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(metrics_.Text(), HasSubstr("trainer_save_failures_total 3"));
  trainer_.disk_full = false;
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::SaveCheckpoint, save, &saved).ok());
  EXPECT_EQ(saved.durable_step(), 5);
}

TEST_F(ServerTest, StepsGoOnWhileACheckpointIsWrittenAndNoSecondOneIsBegunForThem) {
  trainer_.slow_disk = true;
  v1::TrainBatchResponse response;
  for (int step : {1, 2, 3}) {
    ASSERT_TRUE(Train(Sft(step, std::to_string(step)), &response).ok());
  }
  EXPECT_EQ(trainer_.saving_step(), 2);
  EXPECT_EQ(Status().durable_step(), 0);
  trainer_.EndWrite();
  EXPECT_EQ(Status().durable_step(), 2) << "told before the next step";
}

TEST_F(ServerTest, ACallThatGaveUpFindsItsResultLater) {
  trainer_.hold = true;
  v1::TrainBatchResponse response;
  EXPECT_EQ(Train(Sft(1, "a"), &response, absl::Milliseconds(300)).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  trainer_.entered.note.WaitForNotification();
  EXPECT_EQ(Status().step(), 0);  // answered while the worker is held
  trainer_.go_on.Notify();
  ASSERT_TRUE(Train(Sft(1, "a"), &response).ok());
  EXPECT_TRUE(response.already_trained());
}

TEST_F(ServerTest, PublishingAStepAgainIsTheSameVersionAndUnknownStepsAreRefused) {
  v1::PublishRequest request;
  v1::PublishResponse response;
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::Publish, request, &response).ok());
  EXPECT_EQ(response.weights().version(), 1);
  EXPECT_FALSE(response.already_published());
  v1::TrainBatchResponse trained;
  ASSERT_TRUE(Train(Sft(1, "a"), &trained).ok());
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::Publish, request, &response).ok());
  EXPECT_EQ(response.weights().version(), 1);
  EXPECT_TRUE(response.already_published());
  request.set_step(5);
  EXPECT_EQ(Call(&v1::TrainerService::Stub::Publish, request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServerTest, WhilePausedNoBatchIsTaken) {
  v1::TrainerServicePauseResponse paused;
  v1::TrainerServiceResumeResponse resumed;
  v1::TrainBatchResponse response;
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::Pause, {}, &paused).ok());
  EXPECT_EQ(Train(Sft(1, "a"), &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Status().state(), v1::SERVING_STATE_PAUSED);
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::Resume, {}, &resumed).ok());
  EXPECT_TRUE(Train(Sft(1, "a"), &response).ok());
}

TEST_F(ServerTest, ATrainerThatIsNotSoundSaysSoAndIsNotReady) {
  v1::TrainBatchResponse response;
  ASSERT_TRUE(Train(Sft(1, "a"), &response).ok());
  EXPECT_TRUE(service_.Ready().ok());
  EXPECT_THAT(metrics_.Text(), HasSubstr("ready 1"));
  trainer_.broken = true;
  const grpc::Status refused = Train(Sft(2, "b"), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr("not finite"));
  EXPECT_TRUE(Train(Sft(1, "a"), &response).ok()) << "what was trained is still told";
  v1::SaveCheckpointRequest save;
  save.set_wait(true);
  v1::SaveCheckpointResponse saved;
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::SaveCheckpoint, save, &saved).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(service_.Ready()));
  EXPECT_THAT(metrics_.Text(), HasSubstr("ready 0"));
}

TEST_F(ServerTest, DrainingSavesTellsTheDaemonAndIsForGood) {
  v1::TrainBatchResponse response;
  ASSERT_TRUE(Train(Sft(1, "a"), &response).ok());
  v1::TrainerServiceDrainResponse drained;
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::Drain, {}, &drained).ok());
  EXPECT_EQ(drained.durable_step(), 1);
  EXPECT_TRUE(drained_);
  v1::TrainerServiceResumeResponse resumed;
  EXPECT_EQ(Call(&v1::TrainerService::Stub::Resume, {}, &resumed).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Train(Sft(2, "b"), &response).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerTest, AnItemThatCannotBeReadIsRejectedAndNotTheBatch) {
  v1::TrainBatchRequest request;
  request.set_step(1);
  request.set_batch_id("a");
  request.set_kind(v1::BATCH_KIND_RL);
  request.add_items()->mutable_rl()->mutable_rollout()->set_id("bad");
  v1::TrainBatchResponse response;
  ASSERT_TRUE(Train(request, &response).ok());
  ASSERT_EQ(response.rejected_size(), 1);
  EXPECT_EQ(response.rejected(0).rollout_id(), "bad");
  EXPECT_EQ(response.rejected(0).reason(), v1::REJECT_REASON_MALFORMED);
}

TEST_F(ServerTest, APeerOfAnotherRevisionIsRefused) {
  v1::TrainerServiceGetServerInfoRequest request;
  v1::TrainerServiceGetServerInfoResponse response;
  EXPECT_EQ(Call(&v1::TrainerService::Stub::GetServerInfo, request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  ASSERT_TRUE(Call(&v1::TrainerService::Stub::GetServerInfo, request, &response).ok());
  EXPECT_EQ(response.layers(), 2);
}

TEST(WorkerTest, AFullQueueSaysSoAtOnceAndStopDoesWhatWasTaken) {
  absl::Notification go_on, entered;
  int done = 0;
  Worker worker(2);
  ASSERT_TRUE(worker
                  .Post([&] {
                    entered.Notify();
                    go_on.WaitForNotification();
                  })
                  .ok());
  entered.WaitForNotification();
  ASSERT_TRUE(worker.Post([&] { ++done; }).ok());
  ASSERT_TRUE(worker.Post([&] { ++done; }).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(worker.Post([&] { ++done; })));
  go_on.Notify();
  worker.Stop();
  EXPECT_EQ(done, 2);
  EXPECT_TRUE(absl::IsUnavailable(worker.Post([] {})));
}

}  // namespace
}  // namespace palimpsest::trainer
