#pragma once

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

// The subcommands as functions of their options. Check...: is the command line sound? Run...: does
// it; writes JSON and nothing else to `out`.
namespace palimpsest::tools {

// Exactly one of the two.
struct Target {
  std::string model;   // a Hugging Face folder: the work is done in this process
  std::string server;  // host:port of an inference daemon
  std::string tls;     // folder with ca.pem and client.pem for a server under TLS
  std::string dtype;   // of the model in process; empty: float32. A server has its own
  std::string device;  // that generates in process; empty: cpu. A server has its own
  std::optional<int64_t> min_policy_version;  // of a server's weights; a folder has none
};
absl::Status CheckTarget(const Target& target);

struct TextOptions {
  Target target;
  bool jsonl = false;           // one JSON object a line instead of one for all of stdin
  bool special_tokens = false;  // tokenize: add them; detokenize: skip them
  bool chat = false;            // tokenize: a conversation instead of a text
};
absl::Status CheckTokenize(const TextOptions& options);
absl::Status RunTokenize(const TextOptions& options, std::istream& in, std::ostream& out);
absl::Status RunDetokenize(const TextOptions& options, std::istream& in, std::ostream& out);

struct ScoreOptions {
  Target target;
  std::string ids_file;
  std::string events_file;  // empty: no events
  double temperature = 1;
};
absl::Status CheckScore(const ScoreOptions& options);
absl::Status RunScore(const ScoreOptions& options, std::ostream& out);

struct GenerateOptions {
  Target target;
  std::string ids_file;
  int max_tokens = 0;
  double temperature = 1;
  uint64_t seed = 0;
  bool ignore_eos = false;
  std::string context = "none";
  std::vector<std::string> sets;  // context.KEY=VALUE
};
absl::Status CheckGenerate(const GenerateOptions& options);
absl::Status RunGenerate(const GenerateOptions& options, std::ostream& out);

}  // namespace palimpsest::tools
