#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "services/inference/core/page_pool.h"

namespace palimpsest::inference {

// Pages by what they hold: page i of a path holds the K/V of tokens [16 i, 16 i + 16), whose
// content depends on all tokens before them, so pages form a tree over token blocks. The tree
// keeps its pages in the pool (PagePool::Keep). Only whole pages of uncompacted tokens that the
// live weights made may enter, and all must leave when the weights change: then whatever is found
// is what processing the tokens again would make. Owner: engine thread.
class PrefixTree {
 public:
  explicit PrefixTree(PagePool& pages) : pages_(pages) {}
  ~PrefixTree() { Clear(); }
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  // Pages of the longest known beginning of `tokens`, at most `most` of them, which counts as their
  // use. The caller shares them before anything is lost.
  std::vector<int32_t> Find(std::span<const int32_t> tokens, int64_t most);
  // pages[i] holds the i-th block of `tokens`; what is known already stays as it is.
  void Insert(std::span<const int32_t> tokens, std::span<const int32_t> pages);

  // Lets go of the page that was used longest ago, of whose followers none is here. False: empty.
  bool LoseOldest();
  void Clear();

  int64_t size() const { return static_cast<int64_t>(by_use_.size()); }  // pages

 private:
  using Block = std::array<int32_t, kPageSlots>;
  using Key = std::pair<int64_t, Block>;  // number of the node before it (0: none), its tokens
  struct Node {
    int64_t number = 0;
    int32_t page = 0;
    std::list<Key>::iterator use;
  };
  using Path = std::vector<std::map<Key, Node>::iterator>;

  static Block BlockAt(std::span<const int32_t> tokens, size_t i);
  void Touch(const Path& path);

  PagePool& pages_;
  int64_t made_ = 0;
  std::map<Key, Node> nodes_;
  // The longest unused first; a node stands behind all that follow it in the tree, so the first has
  // no followers.
  std::list<Key> by_use_;
};

}  // namespace palimpsest::inference
