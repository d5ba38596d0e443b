#include "tools/eval/env_settings.h"

#include <filesystem>
#include <string_view>

#include "common/config/flags.h"
#include "common/config/node.h"
#include "common/weights/manifest.h"

namespace palimpsest::tools::eval {
namespace {

// Not how the daemon and its processes run: the keys beside the tasks' sections, and those of a
// worker but for its module and options.
bool Matters(const std::string& path) {
  const std::string key = path.substr(std::string_view("env.").size());
  if (key.starts_with("workers")) {
    return key == "workers" || key.ends_with(".module") || key.find(".options.") != key.npos;
  }
  return key.find('.') != key.npos;
}

}  // namespace

absl::StatusOr<Settings> EnvSettings(const std::string& config,
                                     const std::vector<std::string>& sets) {
  ParsedFlags flags{.config_file = config};
  for (const std::string& set : sets) {
    if (set.starts_with("env.")) flags.sets.push_back(set);
  }
  ASSIGN_OR_RETURN(const Node document, LoadDocument(flags));
  Settings settings;
  const Node* const section = document.Find("env");
  if (section == nullptr) return settings;
  for (const auto& [path, value] : Leaves(*section, "env")) {
    if (!Matters(path)) continue;
    settings[path] = value;
    const std::filesystem::path file(value);
    std::error_code error;
    if (!std::filesystem::is_regular_file(file, error)) continue;
    const std::string folder = file.has_parent_path() ? file.parent_path().string() : ".";
    ASSIGN_OR_RETURN(const weights::ManifestFile read,
                     weights::DigestFile(folder, file.filename().string()));
    settings[path + " (contents)"] = read.xxh3;
  }
  return settings;
}

}  // namespace palimpsest::tools::eval
