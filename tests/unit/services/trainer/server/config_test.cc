#include "services/trainer/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/config/flags.h"

namespace palimpsest::trainer {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<DaemonConfig> Read(const std::string& yaml) {
  ASSIGN_OR_RETURN(const Node node, ParseYaml(yaml, "run.yaml"));
  DaemonConfig config;
  Binder binder;
  Bind(binder, config);
  RETURN_IF_ERROR(binder.Read(node, ""));
  RETURN_IF_ERROR(Validate(config));
  return config;
}

TEST(ConfigTest, DefaultsAreLegalAndWhatIsPrintedReadsBack) {
  DaemonConfig config;
  ASSERT_TRUE(Validate(config).ok()) << Validate(config);
  config.trainer.engine.gradient = compaction::GradientMode::kDetached;
  config.trainer.engine.schedule.warmup_steps = 3;
  config.trainer.engine.loss = {.surrogate = {rl::SurrogateKind::kGspo, 3e-4, 4e-4},
                                .correction = {rl::CorrectionKind::kGeometricMask, 0.1, 10},
                                .aggregation = {rl::Aggregation::kConstant, 256},
                                .reference_kl = {rl::KlEstimator::kK2, 0.01},
                                .drift = 0.001,
                                .entropy = 0.002};
  config.trainer.engine.shadow = {
      .learner = rl::View::kDense,
      .distillation = {rl::Distillation::kD3, 0.2, 7},
      .bin = 512,
      .gates = {.acceptance_warn = 0.86, .acceptance_stop = 0.8, .kl_warn = 1, .kl_stop = 2}};
  config.trainer.engine.optimizer.decay = DecayGroup::kInnerMatrices;
  config.trainer.engine.reference_folder = ".";
  config.trainer.engine.max_skipped_in_a_row = 4;
  config.trainer.engine.keep_every = 100;
  config.trainer.engine.resume = 1 << 20;
  config.trainer.engine.activations = model::Activations::kRecomputed;
  config.trainer.engine.dtype = model::DType::kBFloat16;
  const auto read = Read(PrintConfig(config));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(EngineOptionsOf(*read), EngineOptionsOf(config));
}

TEST(ConfigTest, WhatCannotWorkIsRefusedByItsField) {
  const std::pair<const char*, const char*> wrong[] = {
      {"trainer: {dtype: float16}", "trainer.dtype"},
      {"trainer: {activations: block}", "trainer.activations"},
      {"trainer: {loss: {correction: {upper: 1}}}", "trainer.loss.correction.upper=1"},
      {"trainer: {loss: {surrogate: gspo, correction: {kind: icepop}}}", "trainer.loss.correction"},
      {"trainer: {loss: {aggregation: {kind: constant}}}", "trainer.loss.aggregation.divisor=0"},
      {"trainer: {loss: {reference_kl: {estimator: k4}}}", "k4"},
      {"trainer: {loss: {correction: {kind: sparse_rl, lower: 1.0e-4}}}",
       "trainer.loss.correction.kind=sparse_rl with trainer.shadow.view=shadow"},
      {"trainer: {shadow: {view: sparse}}", "trainer.shadow.view"},
      {"trainer: {shadow: {distillation: {kind: d4}}}", "d4"},
      {"trainer: {shadow: {distillation: {coefficient: 1}}}",
       "trainer.shadow.distillation.coefficient=1"},
      {"trainer: {shadow: {gates: {kl_stop: 1}}}", "trainer.shadow.gates without"},
      {"trainer: {shadow: {measure_every: 1, gates: {acceptance_stop: 2}}}",
       "trainer.shadow.gates.acceptance_stop=2"},
      {"trainer: {reference_folder: x}", "trainer.reference_folder=x with"},
      {"trainer: {reference_folder: x, loss: {reference_kl: {coefficient: 1}}}",
       "trainer.reference_folder=x is no folder"},
      {"trainer: {loss: {reference_kl: {coefficient: 0.5}}}",
       "trainer.loss.reference_kl.coefficient=0.5 would"},
      {"trainer: {max_skipped_in_a_row: 300}", "trainer.max_skipped_in_a_row=300"},
      {"trainer: {schedule: {decay: cosine}}", "trainer.schedule.decay=cosine"},
      {"trainer: {optimizer: {beta1: 1}}", "trainer.optimizer.beta1=1"},
      {"trainer: {schedule: {learning_rate: 0}}", "trainer.schedule.learning_rate=0"},
      {"trainer: {keep_every: -1}", "trainer.keep_every=-1"},
      {"trainer: {resume: -2}", "trainer.resume=-2"},
      {"trainer: {keep_versions: 1}", "trainer.keep_versions=1"},
      {"trainer: {listen: nowhere}", "trainer.listen=\"nowhere\""},
      {"trainer: {listen: \"0.0.0.0:0\"}", "trainer.insecure"},
      {"trainer: {metrics: \"0.0.0.0:0\"}", "trainer.insecure"},
      {"trainer: {ranks: 0}", "trainer.ranks=0"},
      {"trainer: {ranks: 2, rank: 2}", "trainer.rank=2 is not in [0, trainer.ranks=2)"},
      {"trainer: {collective_timeout: 10ms}", "trainer.collective_timeout=10ms"},
      {"trainer: {ranks: 2, advertise: node7}", "trainer.advertise=node7"},
      {"trainer: {surprise: 1}", "surprise"},
      {"model: {init: {kv_heads: 3}}", "model.init.kv_heads=3"},
  };
  for (const auto& [yaml, message] : wrong) {
    EXPECT_THAT(std::string(Read(yaml).status().message()), HasSubstr(message)) << yaml;
  }
}

TEST(ConfigTest, RanksMeetInTheFolderOfTheRunUnderTheNameThatOthersReachThemBy) {
  const auto local = JoinOptionsOf(*Read("run: {folder: r}\ntrainer: {ranks: 4, rank: 3}"));
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_EQ(local->folder, "r/ranks");
  EXPECT_EQ(local->rank, 3);
  EXPECT_EQ(local->size, 4);
  EXPECT_EQ(local->host, "127.0.0.1");
  const auto far = Read("trainer: {ranks: 2, listen: \"0.0.0.0:0\", insecure: true, advertise: b}");
  ASSERT_TRUE(far.ok()) << far.status();
  EXPECT_EQ(JoinOptionsOf(*far)->host, "b");
}

TEST(ConfigTest, AModelFolderMustBeThereUntilTheRunHasACheckpoint) {
  const std::string run = ::testing::TempDir() + "/trainer-config-test";
  std::filesystem::remove_all(run);
  const std::string yaml = "run: {folder: " + run + "}\nmodel: {folder: no-such-folder}";
  EXPECT_THAT(std::string(Read(yaml).status().message()),
              HasSubstr("model.folder=no-such-folder is no folder"));
  EXPECT_FALSE(std::filesystem::exists(run)) << "a check leaves no trace";
  std::filesystem::create_directories(run + "/checkpoints/step-00000004");
  EXPECT_TRUE(Read(yaml).ok()) << Read(yaml).status();
  std::filesystem::remove_all(run);
  EXPECT_TRUE(Read("model: {folder: .}").ok());
}

}  // namespace
}  // namespace palimpsest::trainer
