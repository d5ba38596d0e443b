#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/base/random.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "common/tokenizer/tokenizer.h"

namespace palimpsest {
namespace {

using Json = nlohmann::json;

Json Good() {
  return Json::parse(*ByteTokenizerJson(std::vector<std::string>{"<|end|>"}), nullptr, false);
}

// Loads the good file with one value replaced; the message.
std::string MessageWith(const std::string& pointer, const Json& value) {
  Json file = Good();
  file[Json::json_pointer(pointer)] = value;
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  if (tokenizer.ok()) return "ok";
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

TEST(HostileFileTest, AMissingFolderIsNotFound) {
  EXPECT_EQ(Tokenizer::Load("no/such/folder").status().code(), absl::StatusCode::kNotFound);
}

TEST(HostileFileTest, RefusalsNameTheFieldAndTheValue) {
  const struct {
    std::string pointer;
    Json value;
    std::string says;
  } kCases[] = {
      {"/model/type", "Unigram", "model.type \"Unigram\""},
      {"/model/type", nullptr, "model.type is missing"},
      {"/model", 3, "model must be an object"},
      {"/model/dropout", 0.1, "model.dropout must be null or 0, not 0.1"},
      {"/model/byte_fallback", true, "model.byte_fallback"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix"},
      {"/model/unk_token", "<unk>", "model.unk_token=\"<unk>\""},
      {"/model/ignore_merges", 1, "model.ignore_merges must be a bool, not 1"},
      {"/model/vocab", Json::array(), "model.vocab"},
      {"/model/vocab/a", -1, "model.vocab[\"a\"]"},
      {"/model/vocab/a", 1e300, "model.vocab[\"a\"]"},
      {"/model/vocab/a", 4294967296, "4294967296"},
      {"/model/vocab/a", 98, "gives id 98"},
      {"/model/merges", nullptr, "model.merges"},
      {"/model/merges", Json::array({"a b"}), "model.merges[0]: token \"ab\" is not"},
      {"/model/merges", Json::array({"zz b"}), "model.merges[0]: token \"zz\" is not"},
      {"/model/merges", Json::array({"a b c"}), "model.merges[0]"},
      {"/model/merges", Json::array({"a"}), "model.merges[0]"},
      {"/model/merges", Json::array({Json::array({"a", 1})}), "model.merges[0]"},
      {"/normalizer", {{"type", "Lowercase"}}, "normalizer.type \"Lowercase\""},
      {"/normalizer",
       {{"type", "Sequence"}, {"normalizers", {{{"type", "Strip"}}}}},
       "normalizer.normalizers[0].type \"Strip\""},
      {"/pre_tokenizer", nullptr, "pre_tokenizer"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "\"Whitespace\""},
      {"/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array()}}, "ByteLevel"},
      {"/decoder", nullptr, "decoder"},
      {"/decoder", {{"type", "Metaspace"}}, "decoder.type \"Metaspace\""},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor.type \"BertProcessing\""},
      {"/post_processor", {{"type", "TemplateProcessing"}}, "post_processor.single"},
      {"/post_processor",
       {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "x"}}}}}}},
       "names \"x\""},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "x"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{"x", {{"ids", {999}}}}}}},
       "id 999"},
      {"/added_tokens", 1, "added_tokens must be an array"},
      {"/added_tokens/0", 1, "added_tokens[0] must be an object"},
      {"/added_tokens/0/id", 300, "\"<|end|>\" has id 300 where 256 is due"},
      {"/added_tokens/0/content", 5, "added_tokens[0].content must be a string, not 5"},
      {"/added_tokens/0/special", nullptr, "added_tokens[0].special is missing"},
      {"/truncation", {{"max_length", 3}}, "ok"},
  };
  for (const auto& c : kCases) {
    EXPECT_THAT(MessageWith(c.pointer, c.value), testing::HasSubstr(c.says)) << c.pointer;
  }
}

TEST(HostileFileTest, DeepNestingIsRefused) {
  Json normalizer = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) {
    normalizer = Json{{"type", "Sequence"}, {"normalizers", Json::array({normalizer})}};
  }
  EXPECT_THAT(MessageWith("/normalizer", normalizer), testing::HasSubstr("nested too deeply"));
  EXPECT_FALSE(Tokenizer::FromJson(std::string(1'000'000, '[')).ok());
}

TEST(HostileFileTest, DamagedBytesNeverCrash) {
  const std::string good = Good().dump();
  RandomStream random(17);
  for (int round = 0; round < 400; ++round) {
    std::string bad = good;
    for (int i = 0; i < 4; ++i) {
      bad[random.Below(bad.size())] = static_cast<char>(random.Below(256));
    }
    if (round % 2 == 0) bad.resize(random.Below(bad.size()));
    const auto tokenizer = Tokenizer::FromJson(bad);
    if (tokenizer.ok()) (void)(*tokenizer)->Encode("any text");
  }
}

TEST(HostileTextTest, BytesThatAreNotUtf8AreReadAsReplacementCharacters) {
  const auto tokenizer = *Tokenizer::FromJson(Good().dump());
  const auto ids = tokenizer->Encode("a\xE2\x82z\xFF");
  EXPECT_EQ(*tokenizer->Decode(*ids), "a\uFFFDz\uFFFD");
}

TEST(HostileTextTest, AnUnknownIdIsNamed) {
  const auto tokenizer = *Tokenizer::FromJson(Good().dump());
  for (const int32_t id : {-1, 257, 2147483647}) {
    const auto text = tokenizer->Decode(std::vector<int32_t>{97, id});
    EXPECT_THAT(std::string(text.status().message()),
                testing::HasSubstr("ids[1]=" + std::to_string(id)));
  }
}

TEST(HostileTextTest, AMegabyteInOneWordIsMergedInTime) {
  Json file = Good();
  file["added_tokens"] = Json::array();
  std::string token = "a";
  for (int i = 0; i < 8; ++i) {
    file["model"]["merges"].push_back({token, token});
    token += token;
    file["model"]["vocab"][token] = 256 + i;
  }
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode(std::string(1 << 20, 'a'));
  EXPECT_EQ(*ids, std::vector<int32_t>(1 << 12, 263));
}

}  // namespace
}  // namespace palimpsest
