#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest {

// Byte-level BPE as a Hugging Face tokenizer.json describes it, with the same ids as the
// `tokenizers` library. What a file asks for and this room cannot do is refused at load, by name.
// Const use from any thread.
class Tokenizer {
 public:
  // Reads <folder>/tokenizer.json; nothing else in the folder is looked at.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& folder);
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> FromJson(std::string_view json_text);
  ~Tokenizer();

  // Ill-formed UTF-8 is read as U+FFFD, one for each maximal subpart (so bytes that are no text do
  // not come back by Decode). Special tokens that stand in the text become their ids;
  // `add_special_tokens` adds what the file's post_processor puts around a text.
  // INVALID_ARGUMENT: over 1 GiB. RESOURCE_EXHAUSTED: see SplitRegex; not with the usual patterns.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              bool add_special_tokens = false) const;

  // INVALID_ARGUMENT names an unknown id. Bytes that are not UTF-8 become U+FFFD.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     bool skip_special_tokens = false) const;

  // One more than the largest id. A model's logits may be wider (padding).
  int32_t vocab_size() const;
  // Bytes that an id adds to a decoded text at most.
  size_t longest_token() const;

  // By the token's text as the file spells it (byte symbols for ordinary tokens).
  std::optional<int32_t> TokenId(std::string_view text) const;
  std::string_view TokenText(int32_t id) const;  // empty: unknown id

  // The bytes an id adds to a decoded text; nullopt: unknown id. Valid as long as the tokenizer.
  std::optional<std::string_view> TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Decodes ids one by one: all that Push and Flush returned together is Decode of all ids. Push
// gives out whole characters only. One stream, one thread; `tokenizer` outlives it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer, bool skip_special_tokens = false)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // An id without a token (a model's padded logits can be sampled) adds nothing.
  std::string Push(int32_t id);
  // The end of the stream: U+FFFD if a character was left unfinished, else "".
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string held_;  // an unfinished character, at most 3 bytes between calls
};

}  // namespace palimpsest
