#include "common/config/node.h"

#include "absl/strings/str_format.h"

namespace palimpsest {

Node Node::Scalar(std::string text, bool quoted) {
  Node node;
  node.kind = Kind::kScalar;
  node.text = std::move(text);
  node.quoted = quoted;
  return node;
}

const Node* Node::Find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].text == key) return &items[i];
  }
  return nullptr;
}

std::map<std::string, std::string> Leaves(const Node& node, const std::string& path) {
  std::map<std::string, std::string> leaves;
  const bool map = node.kind == Node::Kind::kMap;
  if (node.kind == Node::Kind::kSequence) {
    leaves[path] = absl::StrFormat("%d items", node.items.size());
  } else if (!map) {
    leaves[path] = node.text;
  }
  for (size_t i = 0; i < node.items.size(); ++i) {
    leaves.merge(Leaves(node.items[i], map ? JoinPath(path, node.keys[i].text)
                                           : absl::StrFormat("%s[%d]", path, i)));
  }
  return leaves;
}

absl::Status ConfigError(std::string_view where, std::string_view path, std::string_view message) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrFormat("%s: %s", where, message));
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s: %s", where, path, message));
}

std::string JoinPath(std::string_view path, std::string_view key) {
  return path.empty() ? std::string(key) : absl::StrFormat("%s.%s", path, key);
}

}  // namespace palimpsest
