#include "common/tokenizer/byte_tokenizer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/tokenizer/byte_alphabet.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest {

absl::StatusOr<std::string> ByteTokenizerJson(std::span<const std::string> special_tokens) {
  using Json = nlohmann::ordered_json;
  Json vocab = Json::object();
  nlohmann::json taken = nlohmann::json::object();
  for (int b = 0; b < 256; ++b) {
    const std::string& symbol = SymbolOfByte(static_cast<uint8_t>(b));
    vocab[symbol] = b;
    taken[symbol] = true;
  }
  Json added = Json::array();
  for (size_t i = 0; i < special_tokens.size(); ++i) {
    const std::string& token = special_tokens[i];
    if (token.empty() || !IsValidUtf8(token) || taken.contains(token)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "special_tokens[%d] is empty, not UTF-8, a byte's symbol or there twice", i));
    }
    taken[token] = true;
    added.push_back({{"id", 256 + i},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  const Json file = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", added},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false},
                       {"vocab", vocab},
                       {"merges", Json::array()}}}};
  return file.dump();
}

}  // namespace palimpsest
