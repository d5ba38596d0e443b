#include "tools/commands.h"

#include <functional>
#include <istream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_format.h"
#include "common/tokenizer/utf8.h"
#include "tools/backend.h"
#include "tools/context_settings.h"
#include "tools/event_json.h"

namespace palimpsest::tools {
namespace {

using nlohmann::json;

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const Target& target) {
  if (!target.server.empty()) {
    return MakeRemoteBackend(target.server, target.min_policy_version, target.tls);
  }
  return MakeLocalBackend(target.model, target.dtype.empty() ? "float32" : target.dtype,
                          target.device.empty() ? "cpu" : target.device);
}

// Bytes that are no UTF-8 (a model's ids may spell any) become U+FFFD. In ASCII: U+2028 and U+0085
// end a line for some readers of JSON lines, Python's splitlines() among them.
void Print(const json& value, std::ostream& out) {
  out << value.dump(-1, ' ', true, json::error_handler_t::replace) << '\n';
}

// Calls `one` for each line of `in` (blank ones are passed over); errors name the line.
absl::Status ForEachLine(
    std::istream& in,
    const std::function<absl::Status(const std::string&, const std::string&)>& one) {
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    RETURN_IF_ERROR(one(line, absl::StrFormat("stdin:%d", number)));
  }
  return absl::OkStatus();
}

std::string ReadAll(std::istream& in) {
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

absl::StatusOr<std::vector<int32_t>> ReadSequenceFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return ParseSequence(text, path);
}

absl::Status CheckTemperature(double temperature) {
  const absl::Status sound = rl::Validate({.temperature = temperature});
  if (sound.ok()) return sound;
  return absl::InvalidArgumentError("--" + std::string(sound.message()));
}

// The tokenizer would read it as U+FFFD, and nobody would know.
absl::Status CheckUtf8(const std::string& text, const std::string& where) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = StepUtf8(text, at);
    if (step.kind != Utf8Step::Kind::kWhole) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: is not UTF-8 at byte %d (0x%02x), counted from 0", where, at,
                          static_cast<unsigned char>(text[at])));
    }
    at += step.length;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTarget(const Target& target) {
  if (target.model.empty() == target.server.empty()) {
    return absl::InvalidArgumentError("give one of --model DIR and --server HOST:PORT");
  }
  if (!target.model.empty() && target.min_policy_version.has_value()) {
    return absl::InvalidArgumentError(
        "--min-policy-version is for --server; a folder has no version");
  }
  if (!target.model.empty() && !target.tls.empty()) {
    return absl::InvalidArgumentError("--tls is for --server; a folder is read in process");
  }
  if (!target.server.empty() && !target.dtype.empty()) {
    return absl::InvalidArgumentError("--dtype is for --model; a server has its own");
  }
  if (!target.server.empty() && !target.device.empty()) {
    return absl::InvalidArgumentError("--device is for --model; a server has its own");
  }
  if (!target.device.empty() && target.device != "cpu" && target.device != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrFormat("--device %s is neither cpu nor cuda", target.device));
  }
  if (target.dtype.empty() || target.dtype == "float32" || target.dtype == "bfloat16") {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("--dtype %s is neither float32 nor bfloat16", target.dtype));
}

absl::Status CheckTokenize(const TextOptions& options) {
  RETURN_IF_ERROR(CheckTarget(options.target));
  if (!options.chat || !options.special_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--add-special-tokens is for texts; the template of a --chat has them");
}

absl::Status RunTokenize(const TextOptions& options, std::istream& in, std::ostream& out) {
  ASSIGN_OR_RETURN(const auto backend, MakeBackend(options.target));
  const auto print_chat = [&](const std::string& text, const std::string& where) -> absl::Status {
    ASSIGN_OR_RETURN(const Chat chat, ParseChat(text, where));
    ASSIGN_OR_RETURN(const auto ids, backend->EncodeChat(chat));
    Print({{"ids", ids}}, out);
    return absl::OkStatus();
  };
  if (options.chat && options.jsonl) return ForEachLine(in, print_chat);
  if (options.chat) return print_chat(ReadAll(in), "stdin");
  const auto print = [&](const std::string& text) -> absl::Status {
    ASSIGN_OR_RETURN(const auto ids, backend->Encode(text, options.special_tokens));
    Print({{"ids", ids}}, out);
    return absl::OkStatus();
  };
  if (!options.jsonl) {
    const std::string text = ReadAll(in);
    RETURN_IF_ERROR(CheckUtf8(text, "stdin"));
    return print(text);
  }
  return ForEachLine(in, [&](const std::string& line, const std::string& where) -> absl::Status {
    ASSIGN_OR_RETURN(const std::string text, ParseText(line, where));
    return print(text);
  });
}

absl::Status RunDetokenize(const TextOptions& options, std::istream& in, std::ostream& out) {
  ASSIGN_OR_RETURN(const auto backend, MakeBackend(options.target));
  const auto print = [&](const std::string& text, const std::string& where) -> absl::Status {
    ASSIGN_OR_RETURN(const auto ids, ParseIds(text, where));
    ASSIGN_OR_RETURN(const std::string decoded, backend->Decode(ids, options.special_tokens));
    Print({{"text", decoded}}, out);
    return absl::OkStatus();
  };
  if (!options.jsonl) return print(ReadAll(in), "stdin");
  return ForEachLine(in, print);
}

absl::Status CheckScore(const ScoreOptions& options) {
  RETURN_IF_ERROR(CheckTarget(options.target));
  if (options.temperature == 0) return absl::InvalidArgumentError("--temperature 0 is not > 0");
  return CheckTemperature(options.temperature);
}

absl::Status RunScore(const ScoreOptions& options, std::ostream& out) {
  ScoreAsk ask{.temperature = options.temperature};
  ASSIGN_OR_RETURN(ask.ids, ReadSequenceFile(options.ids_file));
  if (!options.events_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.events_file));
    ASSIGN_OR_RETURN(ask.events, ParseEvents(text, options.events_file));
  }
  ASSIGN_OR_RETURN(const auto backend, MakeBackend(options.target));
  ASSIGN_OR_RETURN(const Scored scored, backend->Score(ask));
  json answer = {{"logprobs", scored.logprobs}};
  if (scored.version) answer["policy_version"] = scored.version->value();
  Print(answer, out);
  return absl::OkStatus();
}

absl::Status CheckGenerate(const GenerateOptions& options) {
  RETURN_IF_ERROR(CheckTarget(options.target));
  if (options.max_tokens <= 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--max-tokens %d is not > 0", options.max_tokens));
  }
  RETURN_IF_ERROR(CheckTemperature(options.temperature));
  ASSIGN_OR_RETURN(const context::ContextPolicy context,
                   ParseContextPolicy(options.context, options.sets));
  if (!std::holds_alternative<context::Turns>(context.trigger)) return absl::OkStatus();
  return absl::InvalidArgumentError("--context turns belongs to sessions, and this is one answer");
}

absl::Status RunGenerate(const GenerateOptions& options, std::ostream& out) {
  GenerateAsk ask;
  ASSIGN_OR_RETURN(ask.prompt, ReadSequenceFile(options.ids_file));
  ASSIGN_OR_RETURN(ask.context, ParseContextPolicy(options.context, options.sets));
  ask.sampling.max_tokens = options.max_tokens;
  ask.sampling.temperature = options.temperature;
  ask.sampling.seed = options.seed;
  ask.sampling.ignore_eos = options.ignore_eos;
  ASSIGN_OR_RETURN(const auto backend, MakeBackend(options.target));
  ASSIGN_OR_RETURN(const rl::Rollout rollout, backend->Generate(ask));
  json answer = GenerationJson(rollout);
  if (!options.target.server.empty()) answer["policy_versions"] = PolicyVersions(rollout);
  Print(answer, out);
  return absl::OkStatus();
}

}  // namespace palimpsest::tools
