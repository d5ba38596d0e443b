// Against transformers: folders and answers under tests/golden/model, made by make.py there.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/escaping.h"
#include "common/model/causal.h"
#include "common/model/decoder.h"

namespace palimpsest::model {
namespace {

const std::string kGoldens = "tests/golden/model/";

struct Golden {
  std::vector<int64_t> lengths, ids, positions;
  std::vector<std::vector<int64_t>> greedy;
  at::Tensor logits;  // [T, V]
};

Golden ReadGolden(const std::string& name) {
  const auto root = nlohmann::json::parse(std::ifstream(kGoldens + name + "/golden.json"));
  Golden golden;
  root["lengths"].get_to(golden.lengths);
  root["ids"].get_to(golden.ids);
  root["positions"].get_to(golden.positions);
  root["greedy"].get_to(golden.greedy);
  std::string bytes;
  EXPECT_TRUE(absl::Base64Unescape(root["logits"].get<std::string>(), &bytes));
  const int64_t rows = static_cast<int64_t>(golden.ids.size());
  const int64_t vocab = static_cast<int64_t>(bytes.size()) / 4 / rows;
  golden.logits = at::from_blob(bytes.data(), {rows, vocab}, at::kFloat).clone();
  return golden;
}

at::Tensor LogitsOf(const Decoder& decoder, const std::vector<int64_t>& lengths,
                    const std::vector<int64_t>& ids, const std::vector<int64_t>& positions) {
  const c10::NoGradGuard no_grad;
  CausalContext attention(lengths);
  return decoder.Logits(
      decoder.Hidden(at::tensor(ids, at::kLong), at::tensor(positions, at::kLong), attention));
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

std::vector<int64_t> Greedy(const Decoder& decoder, std::vector<int64_t> ids, int64_t first,
                            size_t count) {
  std::vector<int64_t> made;
  while (made.size() < count) {
    std::vector<int64_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), first);
    const at::Tensor logits = LogitsOf(decoder, {static_cast<int64_t>(ids.size())}, ids, positions);
    made.push_back(logits[-1].argmax().item<int64_t>());
    ids.push_back(made.back());
  }
  return made;
}

class ModelGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ModelGoldenTest, LogitsAndGreedyContinuationsAreThoseOfTransformers) {
  const Golden golden = ReadGolden(GetParam());
  const auto decoder = Decoder::Load(kGoldens + GetParam(), DType::kFloat32);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  const at::Tensor logits = LogitsOf(**decoder, golden.lengths, golden.ids, golden.positions);
  EXPECT_LE(MaxDifference(logits, golden.logits), 1e-4);
  int64_t begin = 0;
  for (size_t i = 0; i < golden.lengths.size(); ++i) {
    const std::vector<int64_t> prompt(golden.ids.begin() + begin,
                                      golden.ids.begin() + begin + golden.lengths[i]);
    EXPECT_EQ(Greedy(**decoder, prompt, golden.positions[begin], golden.greedy[i].size()),
              golden.greedy[i]);
    begin += golden.lengths[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ModelGoldenTest,
                         ::testing::Values("qwen3_tied", "qwen3_untied_sharded", "qwen2_bias",
                                           "llama3_scaling", "llama_spelling_of_4"));

// bf16 keeps 8 bits: every product of a layer rounds by up to 2^-9 relative, in another order here
// than there. Logits are of size 10; both sides must be about as near to the fp32 answer.
TEST(ModelBf16Test, StaysAsNearToFp32AsTransformersDoes) {
  const Golden golden = ReadGolden("qwen3_bf16");
  const auto narrow = Decoder::Load(kGoldens + "qwen3_bf16", DType::kBFloat16);
  const auto wide = Decoder::Load(kGoldens + "qwen3_bf16", DType::kFloat32);
  ASSERT_TRUE(narrow.ok() && wide.ok()) << narrow.status();
  const at::Tensor ours = LogitsOf(**narrow, golden.lengths, golden.ids, golden.positions);
  const at::Tensor exact = LogitsOf(**wide, golden.lengths, golden.ids, golden.positions);
  EXPECT_EQ(ours.scalar_type(), at::kFloat);
  const double scale = exact.abs().max().item<double>();
  EXPECT_LE(MaxDifference(ours, golden.logits), 0.03 * scale);
  EXPECT_LE((ours - exact).norm().item<double>(),
            1.2 * (golden.logits - exact).norm().item<double>());
  // Logits themselves are not rounded to bf16.
  EXPECT_GT(MaxDifference(ours, ours.to(at::kBFloat16).to(at::kFloat)), 0);
}

TEST(ModelGoldenControl, WithoutRopeScalingTheLogitsDiffer) {
  const Golden golden = ReadGolden("llama3_scaling");
  const auto scaled = Decoder::Load(kGoldens + "llama3_scaling", DType::kFloat32);
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  ModelConfig config = (*scaled)->config();
  config.rope_scaling.reset();
  const auto plain = Decoder::Random(config, 0, DType::kFloat32);
  ASSERT_TRUE(plain->CopyWeights((*scaled)->Parameters()).ok());
  EXPECT_GT(
      MaxDifference(LogitsOf(*plain, golden.lengths, golden.ids, golden.positions), golden.logits),
      0.1);
}

TEST(ModelGoldenControl, PositionsMatter) {
  const Golden golden = ReadGolden("qwen3_tied");
  const auto decoder = Decoder::Load(kGoldens + "qwen3_tied", DType::kFloat32);
  std::vector<int64_t> positions = golden.positions;
  positions[3] += 1;
  EXPECT_GT(
      MaxDifference(LogitsOf(**decoder, golden.lengths, golden.ids, positions), golden.logits),
      1e-2);
}

}  // namespace
}  // namespace palimpsest::model
