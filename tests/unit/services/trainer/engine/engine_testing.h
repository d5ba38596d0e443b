#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "services/trainer/engine/engine.h"
#include "tests/unit/services/trainer/engine/batches.h"

// A trainer of the tiny model of batches.h. Included by tests only, with torch.
namespace palimpsest::trainer {

class EngineTest : public ::testing::Test {
 protected:
  EngineTest()
      : root_((std::filesystem::path(::testing::TempDir()) /
               (std::string("trainer_") +
                ::testing::UnitTest::GetInstance()->current_test_info()->name()))
                  .string()) {
    std::filesystem::remove_all(root_);
  }
  ~EngineTest() override { std::filesystem::remove_all(root_); }

  EngineOptions Options(const std::string& run = "a") const { return TinyOptions(root_, run); }
  std::unique_ptr<TrainerEngine> Open(const EngineOptions& options) const {
    auto engine = TrainerEngine::Open(options, SystemClock());
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  std::string root_;
};

inline std::vector<at::Tensor> Weights(const TrainerEngine& engine) {
  std::vector<at::Tensor> weights;
  for (const auto& [name, tensor] : engine.decoder().Parameters()) {
    weights.push_back(tensor.detach().clone());
  }
  return weights;
}

inline bool BitEqual(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

inline StepResult Trained(TrainerEngine& engine, const Batch& batch) {
  const auto outcome = engine.Train(batch);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  return outcome.ok() ? outcome->result : StepResult{};
}

}  // namespace palimpsest::trainer
