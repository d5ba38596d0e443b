#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace palimpsest {

// The text of a tokenizer.json whose ids 0 to 255 are the bytes and whose special tokens follow
// from 256 on; no merges. Readable by Hugging Face `tokenizers` too. INVALID_ARGUMENT: a special
// token is empty, not UTF-8, there twice, or the symbol of a byte.
absl::StatusOr<std::string> ByteTokenizerJson(std::span<const std::string> special_tokens);

}  // namespace palimpsest
