#include "common/config/binder.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

// Levenshtein distance.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// `; did you mean "x"?`, or nothing when no word is near.
std::string Suggestion(std::string_view written, std::span<const std::string_view> words) {
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, written.size() / 3) + 1;
  for (const std::string_view word : words) {
    const size_t distance = EditDistance(written, word);
    if (distance < best_distance) {
      best = word;
      best_distance = distance;
    }
  }
  return best.empty() ? "" : absl::StrFormat("; did you mean \"%s\"?", best);
}

std::string JoinWords(std::span<const std::string_view> words) {
  std::string out;
  for (const std::string_view word : words) {
    if (!out.empty()) out += ", ";
    out += word;
  }
  return out;
}

}  // namespace

void Binder::Bytes(std::string_view key, int64_t& value, std::string_view doc) {
  const auto read = [&value](const Node& node, const std::string& path) {
    ASSIGN_OR_RETURN(value, ReadBytes(node, path));
    return absl::OkStatus();
  };
  Add(key, doc, read, [&value] { return Node::Scalar(WriteBytes(value)); });
}

absl::Status Binder::Read(const Node& map, const std::string& path,
                          std::span<const std::string_view> other_keys) const {
  if (!twice_.empty()) {
    return absl::InternalError(absl::StrFormat("%s is bound twice", JoinPath(path, twice_)));
  }
  if (map.kind != Node::Kind::kMap) {
    return ConfigError(map.where, path,
                       absl::StrFormat("expected a section, found %s", KindName(map)));
  }
  std::vector<std::string_view> words(other_keys.begin(), other_keys.end());
  for (const Entry& entry : entries_) words.push_back(entry.key);
  for (const Node::Key& key : map.keys) {
    if (std::find(words.begin(), words.end(), key.text) == words.end()) {
      return ConfigError(key.where, JoinPath(path, key.text),
                         "unknown key" + Suggestion(key.text, words));
    }
  }
  for (const Entry& entry : entries_) {
    if (const Node* value = map.Find(entry.key)) {
      RETURN_IF_ERROR(entry.read(*value, JoinPath(path, entry.key)));
    }
  }
  return absl::OkStatus();
}

Node Binder::Write() const {
  Node map;
  map.kind = Node::Kind::kMap;
  for (const Entry& entry : entries_) {
    map.keys.push_back({entry.key, "", entry.doc});
    map.items.push_back(entry.write());
  }
  return map;
}

void Binder::Add(std::string_view key, std::string_view doc,
                 std::function<absl::Status(const Node&, const std::string&)> read,
                 std::function<Node()> write) {
  for (const Entry& entry : entries_) {
    if (entry.key == key) twice_ = std::string(key);
  }
  entries_.push_back({std::string(key), std::string(doc), std::move(read), std::move(write)});
}

absl::StatusOr<size_t> Binder::ReadWord(const Node& node, std::string_view path,
                                        std::span<const std::string_view> words) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node, path));
  const auto found = std::find(words.begin(), words.end(), text);
  if (found != words.end()) return found - words.begin();
  return ConfigError(node.where, path,
                     absl::StrFormat("\"%s\" is not one of %s%s", text, JoinWords(words),
                                     Suggestion(text, words)));
}

std::string Binder::DocWithWords(std::string_view doc, std::span<const std::string_view> words) {
  return absl::StrFormat("%s (one of: %s)", doc, JoinWords(words));
}

}  // namespace palimpsest
