#include "common/tokenizer/split_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

std::vector<std::string> Pieces(const std::string& pattern, const std::string& text) {
  std::vector<std::string> out;
  const auto regex = SplitRegex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  const auto cuts = regex->Split(text);
  EXPECT_TRUE(cuts.ok()) << cuts.status();
  for (const auto& cut : *cuts) {
    out.push_back((cut.matched ? "" : "-") + std::string(cut.text));
  }
  return out;
}

TEST(SplitRegexTest, CutsAtBothEndsOfEachMatch) {
  EXPECT_THAT(Pieces("b+", "abbac"), testing::ElementsAre("-a", "bb", "-ac"));
  EXPECT_THAT(Pieces("b+", ""), testing::ElementsAre());
  EXPECT_THAT(Pieces("(?=b)", "aébb"), testing::ElementsAre("-aé", "-b", "-b"));
}

// PCRE2 10.42 knows Unicode 14; what later versions added it holds for unassigned (Cn).
TEST(SplitRegexTest, LettersNumbersAndSpacesAreThoseOfOnigurumaUpToUnicode14) {
  std::ifstream file("tests/golden/tokenizer/unicode.json");
  const auto golden = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  const auto unassigned = SplitRegex::Compile("\\p{Cn}");
  ASSERT_TRUE(unassigned.ok());
  for (const auto& [pattern, ranges] : golden.items()) {
    std::vector<bool> want(0x110000, false);
    for (const auto& range : ranges) {
      for (int c = range[0]; c <= range[1].get<int>(); ++c) want[c] = true;
    }
    const auto regex = SplitRegex::Compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    int differing = 0;
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      std::string text;
      AppendUtf8(c, text);
      const bool got = regex->Split(text)->at(0).matched;
      const bool known = got == want[c] || (want[c] && unassigned->Split(text)->at(0).matched);
      differing += !known;
    }
    EXPECT_EQ(differing, 0) << pattern;
  }
}

TEST(SplitRegexTest, RefusesByNameWhatWouldMeanSomethingElse) {
  for (const std::string construct : {"\\w", "\\b", "\\h", "\\R", "\\K", "\\1", "^", "$", "\\x41",
                                      "(?m:", "(?R)", "(*U", "}+", "{,"}) {
    const auto regex = SplitRegex::Compile("a" + construct + "b");
    ASSERT_FALSE(regex.ok()) << construct;
    EXPECT_THAT(std::string(regex.status().message()), testing::HasSubstr(construct));
  }
  for (const std::string pattern : {"\\p{Han}", "\\pL", "[a[b]]", "[a&&b]", "[]a]", "(", "a\\",
                                    "[a", "\\x{110000}", "(?<=a+)b", "\\", "(?", "\\u12"}) {
    EXPECT_EQ(SplitRegex::Compile(pattern).status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
  }
}

TEST(SplitRegexTest, APatternThatExplodesIsAnErrorAndNoHang) {
  const auto regex = SplitRegex::Compile("(?:a+)+(?=b)");
  ASSERT_TRUE(regex.ok()) << regex.status();
  EXPECT_EQ(regex->Split(std::string(60, 'a')).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(SplitRegexTest, AMillionCharactersOfOneKindAreOnePieceOrTwo) {
  const std::string pattern = R"([^\r\n\p{L}\p{N}]?\p{L}+|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(Pieces(pattern, std::string(1'000'000, 'a')).size(), 1u);
  EXPECT_EQ(Pieces(pattern, std::string(1'000'000, ' ')).size(), 1u);
  EXPECT_EQ(Pieces(pattern, std::string(1'000'000, ' ') + "a").size(), 2u);
}

}  // namespace
}  // namespace palimpsest
