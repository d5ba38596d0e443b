// A device whose step throws: once, or for good.
#include <gmock/gmock.h>

#include <new>
#include <utility>

#include "services/inference/core/admission.h"
#include "services/inference/core/page_pool.h"
#include "services/inference/engine/cpu_device.h"
#include "services/inference/engine/decode_engine.h"
#include "tests/unit/services/inference/engine/engine_testing.h"

namespace palimpsest::inference {
namespace {

using ::testing::HasSubstr;

// What goes wrong.
struct Fault {
  int step = 0;                // the step that throws; 0: none
  bool flip = false;           // does the first flip?
  int clone = 0;               // the clone of a prompt's ring that finds no memory; 0: none
  bool forgets_flips = false;  // the old weights stay, and nobody says so
};

// The CPU's, until the clone that fails.
class FailingRing final : public QueryRing {
 public:
  FailingRing(std::unique_ptr<QueryRing> ring, int clone) : ring_(std::move(ring)), left_(clone) {}
  std::unique_ptr<QueryRing> Clone() const override {
    if (--left_ == 0) throw std::bad_alloc();
    return std::make_unique<FailingRing>(ring_->Clone(), 0);
  }
  static QueryRing* Of(QueryRing* ring) {
    return ring == nullptr ? nullptr : static_cast<FailingRing*>(ring)->ring_.get();
  }

 private:
  const std::unique_ptr<QueryRing> ring_;
  mutable int left_;
};

// The CPU's, but for the fault.
class FailingDevice final : public StepDevice {
 public:
  FailingDevice(std::unique_ptr<StepDevice> device, Fault fault, absl::Status usable)
      : device_(std::move(device)), fault_(fault), usable_(std::move(usable)) {}

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
  void Flip(std::unique_ptr<StagedWeights> weights) override {
    if (std::exchange(fault_.flip, false)) throw std::runtime_error("an illegal address");
    if (!fault_.forgets_flips) device_->Flip(std::move(weights));
  }
  void CopyPage(int32_t from, int32_t to) override { device_->CopyPage(from, to); }
  std::unique_ptr<QueryRing> NewRing(int32_t capacity, bool keys) override {
    return std::make_unique<FailingRing>(device_->NewRing(capacity, keys), fault_.clone);
  }
  void Run(std::span<const StepRows> sequences) override {
    if (--fault_.step == 0) throw std::runtime_error("an illegal address");
    std::vector<StepRows> own(sequences.begin(), sequences.end());
    for (StepRows& s : own) s.ring = FailingRing::Of(s.ring);
    device_->Run(own);
  }
  std::span<const float> Logits(std::span<const int32_t> rows) override {
    return device_->Logits(rows);
  }
  void Solve(int layer, int first_head, int heads, std::span<EventTask> events) override {
    for (EventTask& e : events) e.ring = FailingRing::Of(const_cast<QueryRing*>(e.ring));
    device_->Solve(layer, first_head, heads, events);
  }
  absl::Status Usable() override { return usable_; }

 private:
  const std::unique_ptr<StepDevice> device_;
  Fault fault_;
  const absl::Status usable_;
};

class LostDeviceTest : public EngineTest {
 protected:
  // `usable`: what it says after something was thrown.
  static std::unique_ptr<Engine> MakeFailing(Fault fault, const absl::Status& usable,
                                             int max_running = 1) {
    EngineOptions options{.model_folder = Folder(1),
                          .version = PolicyVersion(1),
                          .device = "cuda",  // as decoded: by the device
                          .limits = {.max_running = max_running, .check_pages = true}};
    const ModelInfo model = Make(options.limits)->model();
    const auto decoder = LoadDecoder(Folder(1), options);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    const int64_t pages = options.limits.kv_pool_bytes / CostOf(model).page_bytes;
    return StartEngine(
        {.options = options,
         .model = model,
         .decoder = *decoder,
         .device = std::make_unique<FailingDevice>(MakeCpuDevice(*decoder, pages), fault, usable)});
  }
};

TEST_F(LostDeviceTest, AStepThatFailsEndsWhatRanAndTheEngineGoesOn) {
  const auto engine = MakeFailing({.step = 5}, absl::OkStatus());
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
  const auto engine = MakeFailing({.step = 5}, lost);
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
    // Another replica may do it: a router asks one.
    EXPECT_TRUE(sink->failed.at(0).retryable);
    EXPECT_EQ(sink->failed.at(0).outcome, rl::Outcome::kInfraFailed);
  }
  EXPECT_EQ(engine->lost(), lost);
  EXPECT_EQ(engine->Submit(Request(), std::make_shared<Collector>(1)), lost);
  EXPECT_EQ(engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep).status(), lost);
  engine->Drain(absl::Seconds(10));
}

TEST_F(LostDeviceTest, AFlipThatFailsEndsWhatRanAndTheOldWeightsStay) {
  const auto engine = MakeFailing({.flip = true}, absl::OkStatus());
  const auto sink = std::make_shared<Collector>(1);
  ASSERT_TRUE(engine->Submit(Request(), sink).ok());
  sink->WaitForTokens(2);
  const auto update = engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep);
  EXPECT_TRUE(absl::IsInternal(update.status())) << update.status();
  EXPECT_THAT(std::string(update.status().message()), HasSubstr("an illegal address"));
  sink->Wait();
  ASSERT_EQ(sink->failed.size(), 1);
  EXPECT_TRUE(absl::IsInternal(sink->failed.at(0).status)) << sink->failed.at(0).status;
  EXPECT_TRUE(sink->failed.at(0).retryable);
  EXPECT_EQ(engine->version(), PolicyVersion(1));
  EXPECT_TRUE(engine->lost().ok()) << engine->lost();
  EXPECT_EQ(Generate(*engine, Request(1, 20))->finished.at(0).rollout.tokens,
            Generate(*Make(), Request(1, 20))->finished.at(0).rollout.tokens);
  const auto again = engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(engine->version(), PolicyVersion(2));
}

TEST_F(LostDeviceTest, ADeviceThatIsLostInAFlipEndsAll) {
  const absl::Status lost = absl::UnavailableError("the GPU is lost");
  const auto engine = MakeFailing({.flip = true}, lost);
  EXPECT_EQ(engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep).status(), lost);
  EXPECT_EQ(engine->lost(), lost);
  EXPECT_EQ(engine->Submit(Request(), std::make_shared<Collector>(1)), lost);
}

// One of several samples finds no memory for its copy of the recorded queries: it and those after
// it end; what runs, of this request and of others, goes on.
TEST_F(LostDeviceTest, ARingWithoutMemoryEndsWhatAskedForIt) {
  const auto engine = MakeFailing({.clone = 2}, absl::OkStatus(), 8);
  GenerationRequest r = Request(3, 12);
  r.context = {.trigger = context::KvBudget{.budget = 24, .window = 8, .keep_ratio = 0.5},
               .reference_tokens = 4};
  engine->Pause();
  const auto other = std::make_shared<Collector>(1);
  GenerationRequest plain = Request(1, 20);
  plain.request_id = "other";
  ASSERT_TRUE(engine->Submit(plain, other).ok());
  const auto sink = std::make_shared<Collector>(3);
  ASSERT_TRUE(engine->Submit(r, sink).ok());
  engine->Resume();
  sink->Wait();
  other->Wait();
  EXPECT_TRUE(sink->finished.contains(0));
  for (const int sample : {1, 2}) {
    ASSERT_TRUE(sink->failed.contains(sample));
    EXPECT_TRUE(absl::IsResourceExhausted(sink->failed.at(sample).status));
    EXPECT_TRUE(sink->failed.at(sample).retryable);
  }
  EXPECT_TRUE(other->finished.contains(0));
  ExpectPoolWhole(*engine);
}

// What canary prompts are for: the decoder on the host has the new weights, the device has not.
TEST_F(LostDeviceTest, WeightsThatDidNotReachTheDeviceAreSeenByAScoreAsDecoded) {
  const auto off = [](Engine& engine) {
    const ScoreRequest plain{.tokens = Request().prompt};
    ScoreRequest decoded = plain;
    decoded.as_decoded = true;
    const auto a = engine.Score(plain), b = engine.Score(decoded);
    EXPECT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    EXPECT_EQ(a->version, b->version);
    double most = 0;
    for (size_t i = 0; i < a->logprobs.size(); ++i)
      most = std::max<double>(most, std::abs(a->logprobs[i] - b->logprobs.at(i)));
    return most;
  };
  for (const bool forgets : {false, true}) {
    const auto engine = MakeFailing({.forgets_flips = forgets}, absl::OkStatus());
    EXPECT_LT(off(*engine), 1e-4);
    const auto update = engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep);
    ASSERT_TRUE(update.ok()) << update.status();
    EXPECT_EQ(off(*engine) > 0.01, forgets) << off(*engine);
    ExpectPoolWhole(*engine);
  }
}

}  // namespace
}  // namespace palimpsest::inference
