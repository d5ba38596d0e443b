// Loading, saving and making weights.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "common/model/causal.h"
#include "common/model/decoder.h"
#include "tests/unit/common/model/model_testing.h"

namespace palimpsest::model {
namespace {

using ::testing::HasSubstr;

constexpr Architecture kAll[] = {Architecture::kQwen3, Architecture::kQwen2, Architecture::kLlama};

std::string Folder(const std::string& name) {
  const std::string folder = ::testing::TempDir() + "model_weights_" + name;
  std::filesystem::remove_all(folder);
  return folder;
}

NamedTensors Copies(const Decoder& decoder) {
  NamedTensors copies;
  for (const auto& [name, tensor] : decoder.Parameters()) copies.emplace_back(name, tensor.clone());
  return copies;
}

bool SameWeights(const NamedTensors& a, const NamedTensors& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].first != b[i].first || !at::equal(a[i].second, b[i].second)) return false;
  }
  return true;
}

at::Tensor Logits(const Decoder& decoder) {
  const c10::NoGradGuard no_grad;
  CausalContext attention({5});
  const at::Tensor ids = at::arange(5, at::kLong);
  return decoder.Logits(decoder.Hidden(ids, ids, attention));
}

TEST(DecoderTest, RandomWeightsArePureInConfigAndSeed) {
  for (const Architecture architecture : kAll) {
    const ModelConfig config = SmallConfig(architecture);
    const auto one = Decoder::Random(config, 7, DType::kFloat32);
    const auto same = Decoder::Random(config, 7, DType::kFloat32);
    const auto other = Decoder::Random(config, 8, DType::kFloat32);
    EXPECT_TRUE(SameWeights(one->Parameters(), same->Parameters()));
    EXPECT_FALSE(SameWeights(one->Parameters(), other->Parameters()));
    // Only rounding separates the dtypes.
    const auto narrow = Decoder::Random(config, 7, DType::kBFloat16);
    EXPECT_TRUE(at::equal(one->HeadWeight().to(at::kBFloat16), narrow->HeadWeight()));
  }
}

TEST(DecoderTest, RandomWeightsHaveTheStatedSpread) {
  ModelConfig config = SmallConfig(Architecture::kLlama);
  config.hidden = 96;
  config.vocab = 500;
  const auto untied = Decoder::Random(config, 1, DType::kFloat32);
  std::map<std::string, at::Tensor> by_name(untied->Parameters().begin(),
                                            untied->Parameters().end());
  const auto spread = [&](const std::string& name) {
    return by_name.at(name).std().item<double>();
  };
  EXPECT_NEAR(spread("model.embed_tokens.weight"), 0.5, 0.01);
  EXPECT_NEAR(spread("model.layers.1.self_attn.q_proj.weight"), 1 / std::sqrt(96), 0.005);
  EXPECT_NEAR(spread("model.layers.1.mlp.down_proj.weight"), 1 / std::sqrt(40 * 6), 0.005);
  EXPECT_EQ(by_name.at("model.layers.1.mlp.down_proj.bias").abs().max().item<double>(), 0);
  EXPECT_EQ(by_name.at("model.norm.weight").min().item<double>(), 1);
  config.tied_embeddings = true;
  const auto tied = Decoder::Random(config, 1, DType::kFloat32);
  EXPECT_NEAR(tied->HeadWeight().std().item<double>(), 1 / std::sqrt(96), 0.005);
}

TEST(DecoderTest, SavedAndLoadedIsTheSameModel) {
  for (const Architecture architecture : kAll) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
      ModelConfig config = SmallConfig(architecture);
      config.tied_embeddings = architecture == Architecture::kQwen2;
      const auto model = Decoder::Random(config, 3, dtype);
      const std::string folder = Folder("saved");
      ASSERT_TRUE(model->Save(folder).ok()) << model->Save(folder);
      const auto back = Decoder::Load(folder, dtype);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ((*back)->config(), config);
      EXPECT_TRUE(SameWeights(model->Parameters(), (*back)->Parameters()));
      EXPECT_TRUE(at::equal(Logits(*model), Logits(**back)));
    }
  }
}

TEST(DecoderTest, HandlesOfParametersShareStorageWithTheModel) {
  const auto model = Decoder::Random(SmallConfig(Architecture::kLlama), 3, DType::kFloat32);
  for (const auto& [name, tensor] : model->Parameters()) {
    const at::Tensor before = Logits(*model);
    tensor.select(0, 0).mul_(1.5).add_(0.1);
    EXPECT_FALSE(at::equal(Logits(*model), before)) << name;
  }
}

TEST(DecoderTest, NewWeightsArriveInPlace) {
  const ModelConfig config = SmallConfig(Architecture::kQwen3);
  const auto from = Decoder::Random(config, 1, DType::kFloat32);
  const auto to = Decoder::Random(config, 2, DType::kFloat32);
  const NamedTensors handles = to->Parameters();
  const std::string folder = Folder("arrive");
  ASSERT_TRUE(from->Save(folder).ok());
  ASSERT_TRUE(to->LoadWeights(folder).ok());
  EXPECT_TRUE(SameWeights(from->Parameters(), handles));
  EXPECT_TRUE(at::equal(Logits(*from), Logits(*to)));
}

// Each spoiled set is refused with the tensor's name, and the model keeps every bit.
class SpoiledWeightsTest : public ::testing::Test {
 protected:
  std::string ErrorOf(const NamedTensors& tensors) {
    const NamedTensors before = Copies(*model_);
    const absl::Status status = model_->CopyWeights(tensors);
    EXPECT_TRUE(SameWeights(before, model_->Parameters()));
    return std::string(status.message());
  }
  std::unique_ptr<Decoder> model_ =
      Decoder::Random(SmallConfig(Architecture::kQwen2), 1, DType::kFloat32);
  NamedTensors fresh_ =
      Copies(*Decoder::Random(SmallConfig(Architecture::kQwen2), 2, DType::kFloat32));
};

TEST_F(SpoiledWeightsTest, Missing) {
  const std::string name = fresh_[4].first;
  fresh_.erase(fresh_.begin() + 4);
  EXPECT_THAT(ErrorOf(fresh_), HasSubstr(name));
}

TEST_F(SpoiledWeightsTest, Extra) {
  fresh_.emplace_back("model.layers.3.mlp.up_proj.weight", at::zeros({1}));
  EXPECT_THAT(ErrorOf(fresh_), HasSubstr("model.layers.3.mlp.up_proj.weight"));
}

TEST_F(SpoiledWeightsTest, MisShaped) {
  fresh_.back().second = fresh_.back().second.t().contiguous();
  EXPECT_THAT(ErrorOf(fresh_), HasSubstr("lm_head.weight has shape [24, 61]"));
}

TEST_F(SpoiledWeightsTest, Doubled) {
  fresh_.push_back(fresh_[2]);
  EXPECT_THAT(ErrorOf(fresh_), HasSubstr(fresh_[2].first));
}

TEST_F(SpoiledWeightsTest, Integers) {
  fresh_[2].second = fresh_[2].second.to(at::kLong);
  EXPECT_THAT(ErrorOf(fresh_), HasSubstr(fresh_[2].first));
}

TEST_F(SpoiledWeightsTest, RotaryBuffersAreNoError) {
  fresh_.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at::zeros({4}));
  EXPECT_TRUE(model_->CopyWeights(fresh_).ok());
}

TEST(DecoderTest, ATiedModelOverlooksAHeadOfTheSameShapeOnly) {
  ModelConfig config = SmallConfig(Architecture::kQwen3);
  config.tied_embeddings = true;
  const auto model = Decoder::Random(config, 1, DType::kFloat32);
  NamedTensors tensors = Copies(*model);
  tensors.emplace_back("lm_head.weight", at::zeros({61, 24}));
  EXPECT_TRUE(model->CopyWeights(tensors).ok());
  tensors.back().second = at::zeros({60, 24});
  EXPECT_THAT(model->CopyWeights(tensors).message(), HasSubstr("lm_head.weight"));
}

TEST(DecoderTest, WeightsOfAnotherConfigAreRefused) {
  const auto model = Decoder::Random(SmallConfig(Architecture::kQwen3), 1, DType::kFloat32);
  ModelConfig other = SmallConfig(Architecture::kQwen3);
  other.rope_theta = 5e5;  // the same shapes
  const std::string folder = Folder("other");
  ASSERT_TRUE(Decoder::Random(other, 1, DType::kFloat32)->Save(folder).ok());
  EXPECT_THAT(model->LoadWeights(folder).message(), HasSubstr("another model"));
  EXPECT_FALSE(Decoder::Load(folder + "/absent", DType::kFloat32).ok());
}

}  // namespace
}  // namespace palimpsest::model
