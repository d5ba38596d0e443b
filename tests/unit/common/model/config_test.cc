#include "common/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/common/model/model_testing.h"

namespace palimpsest::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json Valid() {
  return {{"architectures", json::array({"LlamaForCausalLM"})},
          {"model_type", "llama"},
          {"num_hidden_layers", 2},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 100},
          {"max_position_embeddings", 512}};
}

std::string ErrorOf(const json& root) {
  return std::string(ParseModelConfig(root.dump()).status().message());
}

std::string ErrorWith(const char* key, const json& value) {
  json root = Valid();
  root[key] = value;
  return ErrorOf(root);
}

json Llama3() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 64}};
}

TEST(ModelConfigTest, LeavesOutMeanWhatTransformersMeans) {
  const auto config = ParseModelConfig(Valid().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->rope_theta, 1e4);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_FALSE(config->tied_embeddings);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->rope_scaling.has_value());
}

TEST(ModelConfigTest, AQwen3WithoutHeadDimHasTheClassDefault) {
  json root = Valid();
  root["architectures"] = json::array({"Qwen3ForCausalLM"});
  root["model_type"] = "qwen3";
  EXPECT_EQ(ParseModelConfig(root.dump())->head_dim, 128);
}

TEST(ModelConfigTest, BothSpellingsOfRopeGiveOneConfig) {
  json v4 = Valid();
  v4["rope_theta"] = 5e5;
  v4["rope_scaling"] = Llama3();
  json v5 = Valid();
  v5["rope_parameters"] = Llama3();
  v5["rope_parameters"]["rope_theta"] = 5e5;
  json oldest = v4;
  oldest["rope_scaling"].erase("rope_type");
  oldest["rope_scaling"]["type"] = "llama3";
  ASSERT_TRUE(ParseModelConfig(v4.dump()).ok());
  EXPECT_EQ(ParseModelConfig(v4.dump())->rope_scaling->original_max_position, 64);
  EXPECT_EQ(*ParseModelConfig(v4.dump()), *ParseModelConfig(v5.dump()));
  EXPECT_EQ(*ParseModelConfig(v4.dump()), *ParseModelConfig(oldest.dump()));
}

TEST(ModelConfigTest, WrittenAndReadBackIsTheSame) {
  for (const auto architecture :
       {Architecture::kQwen3, Architecture::kQwen2, Architecture::kLlama}) {
    ModelConfig config = SmallConfig(architecture);
    config.rope_theta = 1e6;
    config.tied_embeddings = true;
    if (architecture == Architecture::kLlama) config.rope_scaling = {8, 1, 4, 64};
    const auto back = ParseModelConfig(ModelConfigJson(config));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, config);
  }
}

TEST(ModelConfigTest, WhatTheDecoderCannotDoIsRefusedByFieldAndValue) {
  EXPECT_THAT(ErrorWith("architectures", json::array({"MistralForCausalLM"})),
              HasSubstr("architectures=[\"MistralForCausalLM\"]"));
  EXPECT_THAT(ErrorWith("model_type", "qwen2"), HasSubstr("model_type=\"qwen2\""));
  EXPECT_THAT(ErrorWith("hidden_act", "gelu"), HasSubstr("hidden_act=\"gelu\""));
  EXPECT_THAT(ErrorWith("use_sliding_window", true), HasSubstr("use_sliding_window=true"));
  EXPECT_THAT(ErrorWith("layer_types", json::array({"full_attention", "sliding_attention"})),
              HasSubstr("layer_types=\"sliding_attention\""));
  EXPECT_THAT(ErrorWith("quantization_config", {{"bits", 4}}), HasSubstr("quantization_config="));
  EXPECT_THAT(ErrorWith("rope_scaling", {{"type", "yarn"}, {"factor", 4.0}}),
              HasSubstr("rope_type=\"yarn\""));
  EXPECT_THAT(ErrorWith("partial_rotary_factor", 0.5), HasSubstr("partial_rotary_factor=0.5"));
}

TEST(ModelConfigTest, AnUnusedSlidingWindowIsNoObstacle) {
  EXPECT_EQ(ErrorWith("sliding_window", 4096), "");
  json root = Valid();
  root["sliding_window"] = 4096;
  root["use_sliding_window"] = false;
  EXPECT_EQ(ErrorOf(root), "");
}

TEST(ModelConfigTest, HostileNumbersAreRefused) {
  for (const json& bad : {json(-1), json(0), json(1e300), json(1.5), json("2"), json(nullptr),
                          json(uint64_t{1} << 63), json(int64_t{1} << 40), json::array({2})}) {
    EXPECT_THAT(ErrorWith("num_hidden_layers", bad), HasSubstr("num_hidden_layers=")) << bad;
    EXPECT_THAT(ErrorWith("hidden_size", bad), HasSubstr("hidden_size=")) << bad;
    EXPECT_THAT(ErrorWith("vocab_size", bad), HasSubstr("vocab_size=")) << bad;
  }
  EXPECT_THAT(ErrorWith("num_key_value_heads", 3), HasSubstr("does not divide"));
  EXPECT_THAT(ErrorWith("head_dim", 7), HasSubstr("head_dim=7 is odd"));
  EXPECT_THAT(ErrorWith("rope_theta", -1), HasSubstr("rope_theta=-1"));
  EXPECT_THAT(ErrorWith("rms_norm_eps", 0), HasSubstr("rms_norm_eps=0"));
  json scaling = Llama3();
  scaling["low_freq_factor"] = 4.0;
  EXPECT_THAT(ErrorWith("rope_scaling", scaling), HasSubstr("low_freq_factor"));
}

TEST(ModelConfigTest, TextThatIsNoConfigIsRefused) {
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{\"a\":"),
                                  std::string(100000, '['), std::string("\xff\xfe")}) {
    EXPECT_FALSE(ParseModelConfig(text).ok());
  }
  const std::string deep =
      "{\"quantization_config\":" + std::string(200000, '[') + std::string(200000, ']') + "}";
  EXPECT_FALSE(ParseModelConfig(deep).ok());
}

class StopIdsTest : public ::testing::Test {
 protected:
  StopIdsTest() : folder_(::testing::TempDir() + "stop_ids") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void Write(const char* name, const char* text) { std::ofstream(folder_ + "/" + name) << text; }
  std::string folder_;
};

TEST_F(StopIdsTest, ComeFromTheGenerationConfigFirst) {
  Write("config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(*ReadStopIds(folder_), ElementsAre(7));
  Write("generation_config.json", R"({"eos_token_id": [3, 5]})");
  EXPECT_THAT(*ReadStopIds(folder_), ElementsAre(3, 5));
  Write("generation_config.json", R"({"temperature": 1})");
  EXPECT_THAT(*ReadStopIds(folder_), ElementsAre(7));
}

TEST_F(StopIdsTest, NoneNamedIsEmptyAndNonsenseIsRefused) {
  EXPECT_THAT(*ReadStopIds(folder_), IsEmpty());
  for (const char* bad : {R"({"eos_token_id": -1})", R"({"eos_token_id": ["x"]})", "{"}) {
    Write("generation_config.json", bad);
    EXPECT_FALSE(ReadStopIds(folder_).ok()) << bad;
  }
}

}  // namespace
}  // namespace palimpsest::model
