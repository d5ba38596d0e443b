#include <algorithm>
#include <array>
#include <cctype>

#include "absl/strings/str_format.h"
#include "common/config/node.h"

namespace palimpsest {
namespace {

constexpr std::array<std::string_view, 12> kWordsWithMeaning = {
    "true", "false", "null", "yes", "no", "on", "off", "True", "False", "Null", "Yes", "No"};

bool IsPlainWord(std::string_view text) {
  if (text.empty()) return false;
  const auto in_word = [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '.' || c == '/' || c == '-';
  };
  const unsigned char first = static_cast<unsigned char>(text[0]);
  if (!std::isalpha(first) && first != '_' && first != '/') return false;
  return std::all_of(text.begin(), text.end(), in_word) &&
         std::find(kWordsWithMeaning.begin(), kWordsWithMeaning.end(), text) ==
             kWordsWithMeaning.end();
}

std::string Quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += absl::StrFormat("\\x%02x", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string ScalarText(const Node& node) {
  if (node.kind == Node::Kind::kNull) return "null";
  return node.quoted && !IsPlainWord(node.text) ? Quote(node.text) : node.text;
}

bool IsFlat(const Node& node) {
  return node.kind == Node::Kind::kNull || node.kind == Node::Kind::kScalar;
}

// True for what stands on the line of its key: scalars, [1, 2], {} and [].
bool IsInline(const Node& node) {
  if (IsFlat(node) || node.items.empty()) return true;
  return node.kind == Node::Kind::kSequence &&
         std::all_of(node.items.begin(), node.items.end(), IsFlat);
}

std::string InlineText(const Node& node) {
  if (IsFlat(node)) return ScalarText(node);
  if (node.kind == Node::Kind::kMap) return "{}";
  std::string out = "[";
  for (size_t i = 0; i < node.items.size(); ++i) {
    if (i > 0) out += ", ";
    out += ScalarText(node.items[i]);
  }
  return out + "]";
}

void WriteBlock(const Node& node, int indent, std::string& out);

void WriteMap(const Node& map, int indent, std::string& out) {
  const std::string pad(indent, ' ');
  for (size_t i = 0; i < map.items.size(); ++i) {
    const Node& value = map.items[i];
    const Node::Key& key = map.keys[i];
    const std::string name = IsPlainWord(key.text) ? key.text : Quote(key.text);
    if (IsInline(value)) {
      out += absl::StrFormat("%s%s: %s", pad, name, InlineText(value));
      if (!key.doc.empty()) out += "  # " + key.doc;
      out += '\n';
    } else {
      if (!key.doc.empty()) out += absl::StrFormat("%s# %s\n", pad, key.doc);
      out += absl::StrFormat("%s%s:\n", pad, name);
      WriteBlock(value, indent + 2, out);
    }
  }
}

void WriteBlock(const Node& node, int indent, std::string& out) {
  if (node.kind == Node::Kind::kMap) return WriteMap(node, indent, out);
  const std::string pad(indent, ' ');
  for (const Node& item : node.items) {
    if (IsInline(item)) {
      out += absl::StrFormat("%s- %s\n", pad, InlineText(item));
    } else {
      out += pad + "-\n";
      WriteBlock(item, indent + 2, out);
    }
  }
}

}  // namespace

std::string WriteYaml(const Node& map) {
  std::string out;
  WriteMap(map, 0, out);
  return out;
}

}  // namespace palimpsest
