#include "common/config/flags.h"

#include <array>
#include <fstream>
#include <map>
#include <optional>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace palimpsest {
namespace {

constexpr size_t kMostBytes = size_t{4} << 20;  // of a YAML file

std::optional<DaemonAction> ActionOf(std::string_view word) {
  static const std::map<std::string_view, DaemonAction> kActions = {
      {"--check-config", DaemonAction::kCheckConfig},
      {"--print-config", DaemonAction::kPrintConfig},
      {"--help", DaemonAction::kHelp},
      {"--version", DaemonAction::kVersion}};
  const auto found = kActions.find(word);
  if (found == kActions.end()) return std::nullopt;
  return found->second;
}

absl::Status AddValue(std::string_view flag, std::string value, ParsedFlags& flags) {
  if (flag == "--set") {
    flags.sets.push_back(std::move(value));
    return absl::OkStatus();
  }
  if (!flags.config_file.empty()) return absl::InvalidArgumentError("--config is given twice");
  if (value.empty()) return absl::InvalidArgumentError("--config needs a file name");
  flags.config_file = std::move(value);
  return absl::OkStatus();
}

// The dotted key that a message begins with: "a.b[2].c=3 is ...", "a.b: ...".
std::string_view KeyOf(std::string_view message) {
  constexpr std::string_view kInKey =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.[]";
  return message.substr(0, message.find_first_not_of(kInKey));
}

// Where the deepest part of `key` that the document holds was written; "" when not even its first
// part was.
std::string PlaceOf(const Node& root, std::string_view key) {
  std::string where;
  const Node* at = &root;
  for (const std::string& part : std::vector<std::string>(
           absl::StrSplit(std::string(key), absl::ByAnyChar(".[]"), absl::SkipEmpty()))) {
    const Node* next = nullptr;
    for (size_t i = 0; i < at->items.size(); ++i) {
      const bool is_map = at->kind == Node::Kind::kMap;
      if (part != (is_map ? at->keys[i].text : std::to_string(i))) continue;
      next = &at->items[i];
      where = is_map ? at->keys[i].where : next->where;
    }
    if (next == nullptr) break;
    at = next;
  }
  return where;
}

}  // namespace

absl::StatusOr<ParsedFlags> ParseDaemonFlags(int argc, const char* const* argv) {
  ParsedFlags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (const std::optional<DaemonAction> action = ActionOf(word)) {
      if (flags.action != DaemonAction::kRun && flags.action != *action) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s does not go together with the action before it", word));
      }
      flags.action = *action;
      continue;
    }
    const std::string_view flag = word.substr(0, word.find('='));
    if (flag != "--config" && flag != "--set") {
      return absl::InvalidArgumentError(absl::StrFormat("unknown argument %s", word));
    }
    if (flag.size() < word.size()) {
      RETURN_IF_ERROR(AddValue(flag, std::string(word.substr(flag.size() + 1)), flags));
    } else if (i + 1 < argc) {
      RETURN_IF_ERROR(AddValue(flag, argv[++i], flags));
    } else {
      return absl::InvalidArgumentError(absl::StrFormat("%s needs a value", flag));
    }
  }
  const bool needs_file =
      flags.action == DaemonAction::kRun || flags.action == DaemonAction::kCheckConfig;
  if (needs_file && flags.config_file.empty()) {
    return absl::InvalidArgumentError("--config FILE is missing");
  }
  return flags;
}

std::string DaemonHelp(std::string_view name) {
  return absl::StrFormat(
      "usage: %s --config FILE [--set section.key=value]...\n"
      "  --config FILE    the YAML that describes the whole run\n"
      "  --set a.b=c      puts a value over the file's; may be repeated\n"
      "  --check-config   reads and checks the config, then ends\n"
      "  --print-config   prints the effective config with its comments, then ends\n"
      "  --help           prints this text\n"
      "  --version        prints the version\n",
      name);
}

absl::StatusOr<Node> LoadDocument(const ParsedFlags& flags) {
  std::string text;
  if (!flags.config_file.empty()) {
    std::ifstream file(flags.config_file, std::ios::binary);
    for (std::array<char, 4096> chunk; file.good() && text.size() <= kMostBytes;) {
      file.read(chunk.data(), chunk.size());
      text.append(chunk.data(), static_cast<size_t>(file.gcount()));
    }
    if (text.size() > kMostBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--config %s has more than %d bytes", flags.config_file, kMostBytes));
    }
    if (!file.is_open() || file.bad()) {
      return absl::NotFoundError(absl::StrFormat("--config %s cannot be read", flags.config_file));
    }
  }
  ASSIGN_OR_RETURN(Node root, ParseYaml(text, flags.config_file));
  for (const std::string& assignment : flags.sets) {
    RETURN_IF_ERROR(ApplyOverride(root, assignment));
  }
  return root;
}

absl::Status WithPlace(const absl::Status& refusal, const ParsedFlags& flags) {
  if (refusal.ok()) return refusal;
  const std::string message(refusal.message());
  const absl::StatusOr<Node> root = LoadDocument(flags);
  if (!root.ok()) return refusal;
  const std::string where = PlaceOf(*root, KeyOf(message));
  if (where.empty()) return refusal;
  return absl::Status(refusal.code(), absl::StrFormat("%s: %s", where, message));
}

}  // namespace palimpsest
