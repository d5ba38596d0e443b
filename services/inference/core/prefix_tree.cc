#include "services/inference/core/prefix_tree.h"

#include <algorithm>

namespace palimpsest::inference {

PrefixTree::Block PrefixTree::BlockAt(std::span<const int32_t> tokens, size_t i) {
  Block block;
  std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(i * kPageSlots), kPageSlots,
              block.begin());
  return block;
}

// From its end to its beginning, so that each node comes to stand behind its followers.
void PrefixTree::Touch(const Path& path) {
  for (auto node = path.rbegin(); node != path.rend(); ++node)
    by_use_.splice(by_use_.end(), by_use_, (*node)->second.use);
}

std::vector<int32_t> PrefixTree::Find(std::span<const int32_t> tokens, int64_t most) {
  Path path;
  std::vector<int32_t> pages;
  const size_t blocks = std::min<size_t>(tokens.size() / kPageSlots, static_cast<size_t>(most));
  int64_t before = 0;
  for (size_t i = 0; i < blocks; ++i) {
    const auto node = nodes_.find({before, BlockAt(tokens, i)});
    if (node == nodes_.end()) break;
    path.push_back(node);
    pages.push_back(node->second.page);
    before = node->second.number;
  }
  Touch(path);
  return pages;
}

void PrefixTree::Insert(std::span<const int32_t> tokens, std::span<const int32_t> pages) {
  Path path;
  int64_t before = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    const Key key{before, BlockAt(tokens, i)};
    auto [node, fresh] = nodes_.try_emplace(key);
    if (fresh) {
      pages_.Keep(pages[i]);
      node->second = {
          .number = ++made_, .page = pages[i], .use = by_use_.insert(by_use_.end(), key)};
    }
    path.push_back(node);
    before = node->second.number;
  }
  Touch(path);
}

bool PrefixTree::LoseOldest() {
  if (by_use_.empty()) return false;
  const auto node = nodes_.find(by_use_.front());
  pages_.Drop(node->second.page);
  nodes_.erase(node);
  by_use_.pop_front();
  return true;
}

void PrefixTree::Clear() {
  while (LoseOldest()) {
  }
}

}  // namespace palimpsest::inference
