#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest {

// The "model" of a tokenizer.json, as written: tokens and merges are spelled in byte symbols.
struct BpeSpec {
  absl::flat_hash_map<std::string, int32_t> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // earlier = stronger
  bool ignore_merges = false;  // a word that is a token stays one, whatever the merges say
  std::string unk_token;       // for bytes without a token; empty: such bytes vanish
  bool fuse_unk = false;       // a run of such bytes is one unk_token
};

// Byte-pair encoding of one word. Const use from any thread.
class BpeModel {
 public:
  // INVALID_ARGUMENT when a merge names an unknown token or makes one, or unk_token is no token.
  static absl::StatusOr<std::unique_ptr<const BpeModel>> Create(const BpeSpec& spec);
  ~BpeModel();

  // Appends the ids of `word` (raw bytes, not symbols). Time n log n in its length.
  void Encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t id;  // of the merged token
  };
  struct Symbol {
    int32_t id;
    int32_t previous;  // index, -1: none
    int32_t next;      // index, -1: none
    bool merged_away;
  };
  class WordCache;

  BpeModel();
  absl::Status ReadMerges(const BpeSpec& spec);
  const Merge* FindMerge(int32_t left, int32_t right) const;
  std::vector<Symbol> SymbolsOf(std::string_view word) const;
  void MergeAll(std::vector<Symbol>& symbols) const;
  std::vector<int32_t> EncodeAnew(std::string_view word) const;

  std::array<int32_t, 256> id_of_byte_;  // kNoToken: the vocabulary lacks it
  int32_t unk_id_;                       // kNoToken: none
  bool fuse_unk_;
  absl::flat_hash_map<uint64_t, Merge> merges_;            // left << 32 | right
  absl::flat_hash_map<std::string, int32_t> whole_words_;  // raw bytes; only if ignore_merges
  std::unique_ptr<WordCache> cache_;
};

}  // namespace palimpsest
