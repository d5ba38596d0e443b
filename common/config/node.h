#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest {

// A YAML value as a plain tree that knows where each part was written. Aliases are expanded.
struct Node {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  struct Key {
    std::string text;
    std::string where;  // "run.yaml:12"
    std::string doc;    // printed as a comment; empty when read from a file
  };

  Kind kind = Kind::kNull;
  std::string text;  // of a scalar, as written (quotes resolved)
  bool quoted = false;
  std::string where;
  std::vector<Node> items;  // of a sequence or a map
  std::vector<Key> keys;    // of a map: keys[i] names items[i]

  static Node Scalar(std::string text, bool quoted = false);

  // nullptr when absent or when this is no map.
  const Node* Find(std::string_view key) const;
};

// InvalidArgument "run.yaml:12: inference.engine.blocks: <message>". An empty path is left out.
absl::Status ConfigError(std::string_view where, std::string_view path, std::string_view message);

// "a.b", or "b" when the path is empty.
std::string JoinPath(std::string_view path, std::string_view key);

// One document whose root is a map (an empty text is an empty map). `name` stands in the messages.
// Refuses duplicate keys, keys that are no plain scalars, tags, several documents, and trees deeper
// than 64 or larger than 100 000 nodes (what aliases can blow up).
absl::StatusOr<Node> ParseYaml(const std::string& text, std::string_view name);

// Applies "a.b=VALUE", VALUE in YAML, over what the file says; lists are replaced as a whole.
absl::Status ApplyOverride(Node& root, std::string_view assignment);

// Every scalar below `node` by its path ("a.b[0].c", beginning with `path`), as written; under the
// path of a list, how many items it has.
std::map<std::string, std::string> Leaves(const Node& node, const std::string& path);

// Block style with the doc comments; ParseYaml reads it back to the same values.
std::string WriteYaml(const Node& map);

}  // namespace palimpsest
