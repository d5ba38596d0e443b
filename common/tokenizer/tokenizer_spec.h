#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tokenizer/added_tokens.h"
#include "common/tokenizer/bpe.h"

namespace palimpsest {

// A tokenizer.json as values, checked for form: what it asks for is something this room can do.
struct TokenizerSpec {
  struct Split {
    std::string pattern;
    bool literal = false;  // the pattern is a plain string
    bool invert = false;   // the matches are the pieces, what lies between is the delimiter
    bool remove_delimiter = false;  // false: delimiters are pieces too ("Isolated")
  };

  BpeSpec model;
  bool nfc = false;
  std::vector<Split> splits;      // in order, before the byte level
  bool add_prefix_space = false;  // each piece is made to begin with a space
  bool gpt2_split = false;        // GPT-2's own regex after `splits`
  std::vector<AddedToken> added_tokens;
  std::vector<int32_t> prefix_ids;  // what add_special_tokens puts around the text
  std::vector<int32_t> suffix_ids;
};

// INVALID_ARGUMENT names the field and the value: bad JSON, missing keys, or components other than
// BPE over bytes. `truncation` and `padding` belong to a caller of `tokenizers`, not to the text ->
// ids map: they are left alone, as AutoTokenizer leaves them.
absl::StatusOr<TokenizerSpec> ParseTokenizerSpec(std::string_view json_text);

}  // namespace palimpsest
