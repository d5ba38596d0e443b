#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest {

// A regular expression of a tokenizer.json that cuts text into pieces. `tokenizers` runs these with
// Oniguruma (Ruby syntax); here they run with PCRE2 and its JIT. Only constructs that mean the same
// in both, or can be rewritten so that they do (\s, \S, \d, \D, \uHHHH), are accepted; others (\w,
// \b, ^, $, script names, nested classes, ...) are refused by name instead of splitting otherwise.
//
// Const use from any thread. A match takes time linear in the text for the usual patterns; PCRE2's
// match limit bounds any other.
class SplitRegex {
 public:
  struct Cut {
    std::string_view text;
    bool matched;  // false: the text between two matches
  };

  static absl::StatusOr<SplitRegex> Compile(std::string_view pattern);
  static absl::StatusOr<SplitRegex> CompileLiteral(std::string_view text);

  // All of `text` in order, cut at both ends of each match; empty cuts are left out. `text` is
  // valid UTF-8. RESOURCE_EXHAUSTED: the pattern needs more steps on this text than the match
  // limit.
  absl::StatusOr<std::vector<Cut>> Split(std::string_view text) const;

 private:
  struct Code;
  explicit SplitRegex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static absl::StatusOr<SplitRegex> CompileWith(const std::string& translated,
                                                std::string_view pattern, bool literal);

  std::shared_ptr<const Code> code_;
};

}  // namespace palimpsest
