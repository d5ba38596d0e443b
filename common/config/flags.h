#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config/binder.h"
#include "common/config/node.h"

namespace palimpsest {

enum class DaemonAction { kRun, kCheckConfig, kPrintConfig, kHelp, kVersion };

// What the command line of every daemon says.
struct ParsedFlags {
  DaemonAction action = DaemonAction::kRun;
  std::string config_file;        // empty only for actions that can do without a file
  std::vector<std::string> sets;  // "a.b=c", applied in order over the file
};

// Takes --config FILE, --set a.b=c (any number), --check-config, --print-config, --help, --version;
// FILE and a.b=c may also follow an equals sign. Refuses anything else, and two actions at once.
absl::StatusOr<ParsedFlags> ParseDaemonFlags(int argc, const char* const* argv);

std::string DaemonHelp(std::string_view name);

// The file (an empty map without one) with the overrides applied.
absl::StatusOr<Node> LoadDocument(const ParsedFlags& flags);

// Fills `config`, whose Bind names the top-level sections that this daemon reads. Sections of other
// daemons, listed in `known_sections`, are passed over; any other section is an error.
template <class T>
absl::Status LoadConfig(const ParsedFlags& flags, std::span<const std::string_view> known_sections,
                        T& config) {
  ASSIGN_OR_RETURN(const Node document, LoadDocument(flags));
  Binder binder;
  Bind(binder, config);
  return binder.Read(document, "", known_sections);
}

// Of what a Validate refuses: when the message begins with a key ("engine.blocks=0 is ..."), puts
// before it where the key was written, "run.yaml:12: " or "--set engine.blocks=0: ". A key that was
// left out gives the place of the section around it; a message without a known key stays as it is.
absl::Status WithPlace(const absl::Status& refusal, const ParsedFlags& flags);

// The effective YAML with doc comments; it can be read back.
template <class T>
std::string PrintConfig(T config) {
  return WriteYaml(Codec<T>::Write(config));
}

}  // namespace palimpsest
