#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/weights/safetensors.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"

// Steps that compute in bf16, whose weights have fp32 masters.
namespace palimpsest::trainer {
namespace {

using ::testing::SizeIs;

class PrecisionTest : public EngineTest {
 protected:
  EngineOptions In(model::DType dtype, const std::string& run) const {
    EngineOptions options = Options(run);
    options.dtype = dtype;
    return options;
  }
  EngineOptions Bf16(const std::string& run = "bf16") const {
    return In(model::DType::kBFloat16, run);
  }
};

std::vector<at::Tensor> To(at::ScalarType type, std::vector<at::Tensor> tensors) {
  for (at::Tensor& tensor : tensors) tensor = tensor.to(type);
  return tensors;
}

TEST_F(PrecisionTest, Bf16LearnsDemonstrationsAsFp32Does) {
  const auto bf16 = Open(Bf16()), fp32 = Open(Options("fp32"));
  for (int64_t step = 1; step <= 15; ++step) {
    const StepResult narrow = Trained(*bf16, SftBatch(step, Budget()));
    const StepResult wide = Trained(*fp32, SftBatch(step, Budget()));
    EXPECT_FALSE(narrow.skipped);
    EXPECT_NEAR(narrow.loss / wide.loss, 1, 0.01) << step;
    EXPECT_NEAR(narrow.grad_norm / wide.grad_norm, 1, 0.1) << step;
  }
}

TEST_F(PrecisionTest, OwnRolloutsAreReplayedAsFarAsBf16RoundsWhateverTheEvents) {
  const auto engine = Open(Bf16());
  ASSERT_TRUE(engine->Publish().ok());
  Batch batch = RlBatch(engine->decoder(), 1, Budget());
  const StepResult result = Trained(*engine, batch);
  EXPECT_THAT(result.rejected, SizeIs(0));
  ASSERT_GE(result.mismatch.size(), 4u);
  for (const MismatchBucket& bucket : result.mismatch) {
    EXPECT_LE(bucket.mean_abs, 5e-3) << bucket.events;
    EXPECT_LE(bucket.max_abs, 3e-2) << bucket.events;
  }
  // The control: events that are left out are far outside.
  const auto other = Open(Bf16("control"));
  ASSERT_TRUE(other->Publish().ok());
  for (RlItem& item : batch.rl) item.rollout.events.clear();
  EXPECT_GT(Trained(*other, batch).mismatch.back().mean_abs, 1e-2);
}

TEST_F(PrecisionTest, ResumingIsExactBecauseMastersAreSaved) {
  const auto whole = Open(Bf16("whole"));
  for (int64_t step = 1; step <= 3; ++step) Trained(*whole, SftBatch(step, Budget()));
  auto cut = Open(Bf16("cut"));
  Trained(*cut, SftBatch(1, Budget()));
  ASSERT_TRUE(cut->Save().ok());
  cut = Open(Bf16("cut"));
  EXPECT_EQ(cut->step(), 1);
  for (int64_t step = 2; step <= 3; ++step) Trained(*cut, SftBatch(step, Budget()));
  EXPECT_TRUE(BitEqual(Weights(*whole), Weights(*cut)));
}

TEST_F(PrecisionTest, ARunGoesOnInAnotherDtypeFromItsMastersAndBackWithThemRounded) {
  auto engine = Open(Bf16("run"));
  Trained(*engine, SftBatch(1, Budget()));
  const std::vector<at::Tensor> narrow = Weights(*engine);
  ASSERT_TRUE(engine->Save().ok());
  engine = Open(In(model::DType::kFloat32, "run"));
  const std::vector<at::Tensor> masters = Weights(*engine);
  EXPECT_TRUE(BitEqual(To(at::kBFloat16, masters), narrow));
  EXPECT_FALSE(BitEqual(masters, To(at::kFloat, narrow))) << "they hold more";
  EXPECT_FALSE(Trained(*engine, SftBatch(2, Budget())).skipped);
  const std::vector<at::Tensor> wide = Weights(*engine);
  ASSERT_TRUE(engine->Save().ok());
  engine = Open(Bf16("run"));
  EXPECT_TRUE(BitEqual(Weights(*engine), To(at::kBFloat16, wide)));
  EXPECT_FALSE(Trained(*engine, SftBatch(3, Budget())).skipped);
}

TEST_F(PrecisionTest, VersionsHoldTheBf16WeightsThatCompute) {
  const auto engine = Open(Bf16());
  Trained(*engine, SftBatch(1, {}));
  ASSERT_TRUE(engine->Publish().ok());
  const std::string folder = Bf16().run.StoreFolder() + "/v00000001";
  const auto file = weights::SafetensorsFile::Open(folder + "/model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  for (const auto& [name, tensor] : (*file)->tensors()) {
    EXPECT_EQ(tensor.type, weights::TensorType::kBF16) << name;
  }
  const auto read = LoadModel(folder, model::DType::kBFloat16);
  ASSERT_TRUE(read.ok()) << read.status();
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : read->decoder->Parameters()) tensors.push_back(tensor);
  EXPECT_TRUE(BitEqual(tensors, Weights(*engine)));
}

}  // namespace
}  // namespace palimpsest::trainer
