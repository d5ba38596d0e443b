// A device whose step throws: once, or for good.
#include <gmock/gmock.h>

#include "services/inference/core/admission.h"
#include "services/inference/core/page_pool.h"
#include "services/inference/engine/cpu_device.h"
#include "services/inference/engine/decode_engine.h"
#include "tests/unit/services/inference/engine/engine_testing.h"

namespace palimpsest::inference {
namespace {

using ::testing::HasSubstr;

// The CPU's, until the step that fails.
class FailingDevice final : public StepDevice {
 public:
  FailingDevice(std::unique_ptr<StepDevice> device, int steps, absl::Status usable)
      : device_(std::move(device)), left_(steps), usable_(std::move(usable)) {}

  absl::Status CheckPolicy(const context::ContextPolicy& policy) const override {
    return device_->CheckPolicy(policy);
  }
  absl::Status CheckForced(const context::Event& event) const override {
    return device_->CheckForced(event);
  }
  absl::StatusOr<std::unique_ptr<StagedWeights>> Stage(
      std::shared_ptr<const model::Decoder> decoder) const override {
    return device_->Stage(std::move(decoder));
  }
  void Flip(std::unique_ptr<StagedWeights> weights) override { device_->Flip(std::move(weights)); }
  void CopyPage(int32_t from, int32_t to) override { device_->CopyPage(from, to); }
  std::unique_ptr<QueryRing> NewRing(int32_t capacity, bool keys) override {
    return device_->NewRing(capacity, keys);
  }
  void Run(std::span<const StepRows> sequences) override {
    if (--left_ == 0) throw std::runtime_error("an illegal address");
    device_->Run(sequences);
  }
  std::span<const float> Logits(std::span<const int32_t> rows) override {
    return device_->Logits(rows);
  }
  void Solve(int layer, int first_head, int heads, std::span<EventTask> events) override {
    device_->Solve(layer, first_head, heads, events);
  }
  absl::Status Usable() override { return usable_; }

 private:
  const std::unique_ptr<StepDevice> device_;
  int left_;
  const absl::Status usable_;
};

class LostDeviceTest : public EngineTest {
 protected:
  // Its fifth step throws; what it says then.
  static std::unique_ptr<Engine> MakeFailing(const absl::Status& usable) {
    EngineOptions options{.model_folder = Folder(1),
                          .version = PolicyVersion(1),
                          .limits = {.max_running = 1, .check_pages = true}};
    const ModelInfo model = Make(options.limits)->model();
    const auto decoder = LoadDecoder(Folder(1), options);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    const int64_t pages = options.limits.kv_pool_bytes / CostOf(model).page_bytes;
    return StartEngine(
        {.options = options,
         .model = model,
         .decoder = *decoder,
         .device = std::make_unique<FailingDevice>(MakeCpuDevice(*decoder, pages), 5, usable)});
  }
};

TEST_F(LostDeviceTest, AStepThatFailsEndsWhatRanAndTheEngineGoesOn) {
  const auto engine = MakeFailing(absl::OkStatus());
  const auto sink = Generate(*engine, Request());
  ASSERT_EQ(sink->failed.size(), 1);
  EXPECT_TRUE(absl::IsInternal(sink->failed.at(0).status)) << sink->failed.at(0).status;
  EXPECT_THAT(std::string(sink->failed.at(0).status.message()), HasSubstr("an illegal address"));
  EXPECT_TRUE(engine->lost().ok()) << engine->lost();
  EXPECT_EQ(Generate(*engine, Request(1, 20))->finished.at(0).rollout.tokens,
            Generate(*Make(), Request(1, 20))->finished.at(0).rollout.tokens);
  ExpectPoolWhole(*engine);
}

TEST_F(LostDeviceTest, ALostDeviceEndsAllAndRefusesTheRest) {
  const absl::Status lost = absl::UnavailableError("the GPU is lost");
  const auto engine = MakeFailing(lost);
  engine->Pause();
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 3; ++i) {  // one runs, two wait
    GenerationRequest r = Request();
    r.request_id = std::to_string(i);
    sinks.push_back(std::make_shared<Collector>(1));
    ASSERT_TRUE(engine->Submit(std::move(r), sinks.back()).ok());
  }
  engine->Resume();
  for (const auto& sink : sinks) {
    sink->Wait();
    ASSERT_EQ(sink->failed.size(), 1);
    EXPECT_EQ(sink->failed.at(0).status, lost);
  }
  EXPECT_EQ(engine->lost(), lost);
  EXPECT_EQ(engine->Submit(Request(), std::make_shared<Collector>(1)), lost);
  EXPECT_EQ(engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep).status(), lost);
  engine->Drain(absl::Seconds(10));
}

}  // namespace
}  // namespace palimpsest::inference
