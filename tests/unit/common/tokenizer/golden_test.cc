#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/tokenizer/byte_tokenizer.h"
#include "common/tokenizer/tokenizer.h"

namespace palimpsest {
namespace {

using Ids = std::vector<int32_t>;

const std::string kGolden = "tests/golden/tokenizer/";

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
}

const nlohmann::json& Cases() {
  static const nlohmann::json cases = ReadJson(kGolden + "cases.json");
  return cases["cases"];
}

std::unique_ptr<const Tokenizer> LoadOrDie(const std::string& name) {
  auto tokenizer = Tokenizer::Load(kGolden + name);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

class GoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, EveryTextGetsTheIdsAndTheDecodedTextOfHuggingFaceTokenizers) {
  const std::string name = GetParam();
  const auto tokenizer = LoadOrDie(name);
  ASSERT_NE(tokenizer, nullptr);
  int seen = 0, failed = 0;
  for (const auto& c : Cases()) {
    if (!c.contains(name)) continue;
    ++seen;
    const auto& want = c[name];
    const std::string t = c["t"];
    const std::string text = want.value("text", t);
    const Ids ids = want["ids"];
    const auto got = tokenizer->Encode(t);
    const auto decoded = tokenizer->Decode(ids), plain = tokenizer->Decode(ids, true);
    const bool same = got.ok() && *got == ids && decoded.ok() && *decoded == text && plain.ok() &&
                      *plain == want.value("plain", text);
    if (same || ++failed > 10) continue;
    ADD_FAILURE() << c["t"].dump() << "\nwant " << want.dump() << "\ngot "
                  << (got.ok() ? nlohmann::json(*got).dump() : got.status().ToString());
  }
  EXPECT_EQ(failed, 0);
  EXPECT_GE(seen, name == "gpt2" ? 800 : 2000);
}

TEST_P(GoldenTest, AStreamGivesTheSameTextInWholeCharacters) {
  const std::string name = GetParam();
  const auto tokenizer = LoadOrDie(name);
  ASSERT_NE(tokenizer, nullptr);
  for (const auto& c : Cases()) {
    if (!c.contains(name)) continue;
    const Ids ids = c[name]["ids"];
    StreamDecoder stream(tokenizer.get());
    std::string text;
    for (const int32_t id : ids) text += stream.Push(id);
    text += stream.Flush();
    EXPECT_EQ(text, c[name].value("text", c["t"].get<std::string>()));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTest, testing::Values("qwen2", "llama3", "gpt2"),
                         [](const auto& p) { return std::string(p.param); });

TEST(TemplateTest, SpecialTokensAreAddedOnlyWhenAsked) {
  const auto tokenizer = LoadOrDie("llama3");
  ASSERT_NE(tokenizer, nullptr);
  int seen = 0;
  for (const auto& c : Cases()) {
    if (!c["llama3"].contains("bos")) continue;
    ++seen;
    const auto got = tokenizer->Encode(c["t"].get<std::string>(), true);
    ASSERT_TRUE(got.ok());
    EXPECT_EQ(*got, c["llama3"]["bos"].get<Ids>()) << c["t"];
  }
  EXPECT_GT(seen, 100);
}

// Negative control: the goldens tell a wrong splitting rule, a missing normaliser or a missing
// ignore_merges from the right ones.
TEST(GoldenControlTest, AChangedFileGivesOtherIds) {
  const auto differing = [](const std::string& name, const nlohmann::json& file) {
    const auto tokenizer = Tokenizer::FromJson(file.dump());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    int count = 0;
    for (const auto& c : Cases()) {
      count += *(*tokenizer)->Encode(c["t"].get<std::string>()) != c[name]["ids"].get<Ids>();
    }
    return count;
  };
  auto gpt2_split = ReadJson(kGolden + "qwen2/tokenizer.json");
  gpt2_split["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_GT(differing("qwen2", gpt2_split), 50);
  auto no_nfc = ReadJson(kGolden + "qwen2/tokenizer.json");
  no_nfc["normalizer"] = nullptr;
  EXPECT_GT(differing("qwen2", no_nfc), 50);
  auto merges_obeyed = ReadJson(kGolden + "llama3/tokenizer.json");
  merges_obeyed["model"]["ignore_merges"] = false;
  EXPECT_GT(differing("llama3", merges_obeyed), 50);
}

TEST(GoldenControlTest, MergesAsStringsAndAsPairsMeanTheSame) {
  auto file = ReadJson(kGolden + "qwen2/tokenizer.json");
  for (auto& merge : file["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const auto& c : Cases()) {
    EXPECT_EQ(*(*tokenizer)->Encode(c["t"].get<std::string>()), c["qwen2"]["ids"].get<Ids>());
  }
}

TEST(TokenizerTest, ManyThreadsGetTheSameIds) {
  const auto tokenizer = LoadOrDie("qwen2");
  ASSERT_NE(tokenizer, nullptr);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (const auto& c : Cases()) {
        wrong[t] += *tokenizer->Encode(c["t"].get_ref<const std::string&>()) !=
                    c["qwen2"]["ids"].get<Ids>();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

TEST(TokenizerTest, TokensAreFoundByTextAndById) {
  const auto tokenizer = LoadOrDie("qwen2");
  ASSERT_NE(tokenizer, nullptr);
  const auto id = tokenizer->TokenId("<|im_end|>");
  ASSERT_TRUE(id.has_value());
  EXPECT_EQ(tokenizer->TokenText(*id), "<|im_end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(*id));
  EXPECT_FALSE(tokenizer->IsSpecial(*tokenizer->TokenId("<think>")));
  EXPECT_EQ(tokenizer->TokenBytes(*tokenizer->TokenId("Ġ")), " ");
  EXPECT_EQ(tokenizer->TokenId("<|no such|>"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenText(tokenizer->vocab_size()), "");
  EXPECT_NE(tokenizer->TokenText(tokenizer->vocab_size() - 1), "");
}

TEST(ByteTokenizerTest, IsReadByTransformersAsByUs) {
  const auto golden = ReadJson(kGolden + "bytes.json");
  const std::vector<std::string> special = golden["special"];
  const auto file = ByteTokenizerJson(special);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = Tokenizer::FromJson(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 258);
  for (const auto& c : golden["cases"]) {
    const Ids ids = c["ids"];
    EXPECT_EQ(*(*tokenizer)->Encode(c["t"].get<std::string>()), ids) << c["t"];
    EXPECT_EQ(*(*tokenizer)->Decode(ids), c["text"].get<std::string>());
  }
  EXPECT_EQ(*(*tokenizer)->Encode("a<|end|>"), (Ids{'a', 257}));
}

TEST(ByteTokenizerTest, RefusesSpecialTokensThatCannotBeToldApart) {
  for (const std::vector<std::string>& bad :
       std::vector<std::vector<std::string>>{{""}, {"<a>", "<a>"}, {"a"}, {"Ġ"}, {"\xFF"}}) {
    EXPECT_EQ(ByteTokenizerJson(bad).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace palimpsest
