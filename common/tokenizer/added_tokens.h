#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace palimpsest {

// A token that is found in the text before any splitting or merging.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalised text, as its own normalised form
  bool special = false;

  bool operator==(const AddedToken&) const = default;
};

// Cuts text at added tokens: leftmost first, and of those that begin at one place the longest.
class AddedTokenFinder {
 public:
  struct Segment {
    int32_t id;  // kPlain: ordinary text
    std::string_view text;
  };
  static constexpr int32_t kPlain = -1;

  // `text` is what to look for (token.content or its normalised form). Of two tokens with the same
  // text the first one added wins. An empty text is never found.
  void Add(const AddedToken& token, std::string_view text);

  // Time: text length times the longest token. `text` is valid UTF-8.
  std::vector<Segment> Split(std::string_view text) const;

 private:
  // {index into tokens_, end of the longest token that begins at `at`}; index -1: none begins
  // there.
  std::pair<int32_t, size_t> LongestAt(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node; the root is 0
  std::vector<int32_t> token_of_node_ = {-1};
  std::array<bool, 256> begins_ = {};
};

}  // namespace palimpsest
