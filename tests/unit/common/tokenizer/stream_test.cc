#include <gtest/gtest.h>

#include "common/base/random.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "common/tokenizer/stop_strings.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

std::unique_ptr<const Tokenizer> Bytes() {
  return *Tokenizer::FromJson(*ByteTokenizerJson(std::vector<std::string>{"<|end|>"}));
}

TEST(StreamDecoderTest, HoldsBytesUntilTheCharacterIsWhole) {
  const auto tokenizer = Bytes();
  StreamDecoder stream(tokenizer.get());
  EXPECT_EQ(stream.Push(0xF0), "");
  EXPECT_EQ(stream.Push(0x9F), "");
  EXPECT_EQ(stream.Push(0x98), "");
  EXPECT_EQ(stream.Push(0x80), "😀");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push('a'), "\uFFFDa");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(StreamDecoderTest, SkipsSpecialTokensWhenAskedAndIdsWithoutATokenAlways) {
  const auto tokenizer = Bytes();
  StreamDecoder all(tokenizer.get()), plain(tokenizer.get(), true);
  EXPECT_EQ(all.Push(256), "<|end|>");
  EXPECT_EQ(plain.Push(256), "");
  EXPECT_EQ(all.Push(100000), "");
}

TEST(StreamDecoderTest, EqualsDecodeForAnyBytes) {
  const auto tokenizer = Bytes();
  RandomStream random(3);
  const std::string alphabet = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xF4\xC0\xFF";
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 12; ++i) {
      ids.push_back(static_cast<uint8_t>(alphabet[random.Below(alphabet.size())]));
    }
    StreamDecoder stream(tokenizer.get());
    std::string text;
    for (const int32_t id : ids) {
      text += stream.Push(id);
      ASSERT_TRUE(IsValidUtf8(text));
    }
    ASSERT_EQ(text + stream.Flush(), *tokenizer->Decode(ids));
  }
}

struct Cut {
  std::string text;
  bool stopped;
  bool operator==(const Cut&) const = default;
};

Cut RunInChunks(const std::vector<std::string>& stops, const std::string& text, size_t chunk) {
  StopStrings finder = *StopStrings::Create(stops);
  std::string out;
  for (size_t at = 0; at < text.size(); at += chunk) out += finder.Push(text.substr(at, chunk));
  return {out + finder.Flush(), finder.stopped()};
}

// The definition, by trying every end and every stop string.
Cut Expected(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 0; end <= text.size(); ++end) {
    size_t begin = std::string::npos;
    for (const std::string& stop : stops) {
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        begin = std::min(begin, end - stop.size());
      }
    }
    if (begin != std::string::npos) return {text.substr(0, begin), true};
  }
  return {text, false};
}

TEST(StopStringsTest, CutsTheSameWhateverTheChunks) {
  RandomStream random(5);
  const auto word = [&](int64_t longest) {
    std::string out;
    const int64_t length = random.Between(1, longest);
    for (int64_t i = 0; i < length; ++i) out += static_cast<char>('a' + random.Below(2));
    return out;
  };
  for (int round = 0; round < 3000; ++round) {
    const std::vector<std::string> stops = {word(5), word(7)};
    const std::string text = word(30);
    for (const size_t chunk : {1, 2, 3, 30}) {
      ASSERT_EQ(RunInChunks(stops, text, chunk), Expected(stops, text))
          << stops[0] << " " << stops[1] << " in " << text << " by " << chunk;
    }
  }
}

TEST(StopStringsTest, HoldsBackOnlyWhatMayBeginAStopString) {
  StopStrings finder = *StopStrings::Create({"END", "\n\n"});
  EXPECT_EQ(finder.Push("the E"), "the ");
  EXPECT_EQ(finder.Push("N"), "");
  EXPECT_EQ(finder.Push("x\n"), "ENx");
  EXPECT_FALSE(finder.stopped());
  EXPECT_EQ(finder.Push("\nmore"), "");
  EXPECT_TRUE(finder.stopped());
  EXPECT_EQ(finder.Push("more"), "");
  EXPECT_EQ(finder.Flush(), "");
}

TEST(StopStringsTest, RefusesWhatCanNeverBeFoundOrAlwaysIs) {
  EXPECT_EQ(StopStrings::Create({"ok", ""}).status().message(), "stop[1] is empty");
  EXPECT_EQ(StopStrings::Create({"\xC3"}).status().message(), "stop[0] is not valid UTF-8");
  EXPECT_TRUE(StopStrings::Create({}).ok());
}

}  // namespace
}  // namespace palimpsest
