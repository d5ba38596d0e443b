#include <algorithm>
#include <sstream>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/config/node.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/yaml.h"

namespace palimpsest {
namespace {

constexpr int kMaxDepth = 64;
constexpr int kMaxNodes = 100'000;

class Converter {
 public:
  // `at` names the whole source; `lines` adds the line to it.
  Converter(std::string at, bool lines) : at_(std::move(at)), lines_(lines) {}

  std::string Where(const YAML::Mark& mark) const {
    return lines_ ? absl::StrFormat("%s:%d", at_, std::max(mark.line, 0) + 1) : at_;
  }

  absl::StatusOr<Node> Convert(const YAML::Node& from, const std::string& where,
                               const std::string& path, int depth) {
    if (depth > kMaxDepth) return ConfigError(where, path, "nested too deeply");
    if (++nodes_ > kMaxNodes) return ConfigError(where, path, "too many values");
    Node node;
    node.where = where;
    const std::string& tag = from.Tag();
    if (!tag.empty() && tag != "?" && tag != "!") {
      return ConfigError(where, path, absl::StrFormat("the tag %s is not understood", tag));
    }
    if (from.IsScalar()) {
      node.kind = Node::Kind::kScalar;
      node.text = from.Scalar();
      node.quoted = tag == "!";
    } else if (from.IsSequence()) {
      node.kind = Node::Kind::kSequence;
      for (const YAML::Node& item : from) {
        const std::string item_path = absl::StrFormat("%s[%d]", path, node.items.size());
        ASSIGN_OR_RETURN(Node child, Convert(item, Where(item.Mark()), item_path, depth + 1));
        node.items.push_back(std::move(child));
      }
    } else if (from.IsMap()) {
      node.kind = Node::Kind::kMap;
      for (const auto& entry : from) {
        RETURN_IF_ERROR(AddEntry(entry.first, entry.second, path, depth, node));
      }
    }
    return node;
  }

 private:
  absl::Status AddEntry(const YAML::Node& key, const YAML::Node& value, const std::string& path,
                        int depth, Node& map) {
    const std::string where = Where(key.Mark());
    if (!key.IsScalar()) return ConfigError(where, path, "a key must be a plain word");
    const std::string key_path = JoinPath(path, key.Scalar());
    if (map.Find(key.Scalar()) != nullptr) {
      return ConfigError(where, key_path, "this key is written twice");
    }
    const std::string value_where = value.IsNull() ? where : Where(value.Mark());
    ASSIGN_OR_RETURN(Node child, Convert(value, value_where, key_path, depth + 1));
    map.keys.push_back({key.Scalar(), where, ""});
    map.items.push_back(std::move(child));
    return absl::OkStatus();
  }

  std::string at_;
  bool lines_;
  int nodes_ = 0;
};

// Hears a document and keeps nothing.
class Deaf final : public YAML::EventHandler {
 public:
  using Style = YAML::EmitterStyle::value;
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, Style) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, Style) override {}
  void OnMapEnd() override {}
};

// YAML::LoadAll cannot be asked: where a document begins with a token that none begins with ("," in
// yaml-cpp 0.7), it finds empty documents without an end.
bool HoldsSeveralDocuments(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  Deaf deaf;
  return parser.HandleNextDocument(deaf) && parser.HandleNextDocument(deaf);
}

absl::StatusOr<Node> ParseValue(const std::string& text, std::string_view name, bool lines) {
  Converter converter{std::string(name), lines};
  try {
    if (HoldsSeveralDocuments(text)) {
      return ConfigError(name, "", "holds several YAML documents, one is expected");
    }
    const YAML::Node document = YAML::Load(text);
    return converter.Convert(document, converter.Where(document.Mark()), "", 0);
  } catch (const YAML::Exception& e) {
    return ConfigError(converter.Where(e.mark), "", e.msg);
  }
}

}  // namespace

absl::StatusOr<Node> ParseYaml(const std::string& text, std::string_view name) {
  ASSIGN_OR_RETURN(Node root, ParseValue(text, name, /*lines=*/true));
  if (root.kind == Node::Kind::kNull) root.kind = Node::Kind::kMap;
  if (root.kind != Node::Kind::kMap) {
    return ConfigError(root.where, "", "the file must hold a map of sections");
  }
  return root;
}

absl::Status ApplyOverride(Node& root, std::string_view assignment) {
  const std::string where = absl::StrFormat("--set %s", assignment);
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return ConfigError(where, "", "expected section.key=value");
  }
  ASSIGN_OR_RETURN(Node value,
                   ParseValue(std::string(assignment.substr(equals + 1)), where, /*lines=*/false));
  std::string_view rest = assignment.substr(0, equals);
  std::string path;
  Node* at = &root;
  Node* parent = nullptr;
  size_t place = 0;  // of `at` in its parent
  while (true) {
    if (at->kind == Node::Kind::kNull) at->kind = Node::Kind::kMap;
    if (at->kind != Node::Kind::kMap) return ConfigError(where, path, "is not a section");
    const size_t dot = rest.find('.');
    const std::string key(rest.substr(0, dot));
    if (key.empty()) return ConfigError(where, path, "empty part in the key");
    path = JoinPath(path, key);
    size_t index = 0;
    while (index < at->keys.size() && at->keys[index].text != key) ++index;
    if (index == at->keys.size()) {
      at->keys.push_back({key, where, ""});
      at->items.emplace_back().where = where;
    }
    parent = at;
    place = index;
    at = &at->items[index];
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
  *at = std::move(value);
  parent->keys[place].where = where;
  return absl::OkStatus();
}

}  // namespace palimpsest
