#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>

#include "common/rpc/daemon.h"
#include "tools/commands.h"
#include "tools/launch/launch.h"

namespace palimpsest::tools {
namespace {

void AddTarget(CLI::App& command, Target& target, bool with_dtype) {
  command.add_option("--model", target.model, "Hugging Face folder; the work is done in process");
  command.add_option("--server", target.server, "HOST:PORT of an inference daemon");
  if (with_dtype) command.add_option("--dtype", target.dtype, "float32 (default) or bfloat16");
}

// CLI11 would take -1 for 2^64 - 1.
void AddUnsigned(CLI::App& command, const std::string& name, uint64_t& target,
                 const std::string& doc) {
  const auto check = [](const std::string& text) -> std::string {
    uint64_t value = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc() && at == end && !text.empty()) return "";
    return text + " is not a whole number of [0, 2^64)";
  };
  command.add_option(name, target, doc)->check(check);
}

void AddTokenize(CLI::App& app, TextOptions& o) {
  CLI::App& command = *app.add_subcommand("tokenize", "text on stdin -> {\"ids\": [...]}");
  AddTarget(command, o.target, false);
  command.add_flag("--jsonl", o.jsonl, "one {\"text\": ...} a line in, one {\"ids\": [...]} out");
  command.add_flag("--add-special-tokens", o.special_tokens,
                   "add what tokenizer.json puts around a text");
  command.add_flag(
      "--chat", o.chat,
      "{\"messages\": [{\"role\", \"content\"}, ...]} in place of a text, by the model's "
      "chat template");
}

void AddDetokenize(CLI::App& app, TextOptions& o) {
  CLI::App& command = *app.add_subcommand("detokenize", "{\"ids\": [...]} -> {\"text\": ...}");
  AddTarget(command, o.target, false);
  command.add_flag("--jsonl", o.jsonl, "one {\"ids\": [...]} a line in, one {\"text\": ...} out");
  command.add_flag("--skip-special-tokens", o.special_tokens, "leave special tokens out");
}

void AddScore(CLI::App& app, ScoreOptions& o) {
  CLI::App& command =
      *app.add_subcommand("score", "log-probability of each token after the first, nats");
  AddTarget(command, o.target, true);
  command.add_option("--ids-file", o.ids_file, "{\"ids\": [...]}")->required();
  command.add_option("--events-file", o.events_file,
                     "the context log to replay: an \"events\" array as generate prints it");
  command.add_option("--temperature", o.temperature, "> 0, default 1");
}

void AddGenerate(CLI::App& app, GenerateOptions& o) {
  CLI::App& command = *app.add_subcommand("generate", "continues a prompt, compacting as asked");
  AddTarget(command, o.target, true);
  command.add_option("--ids-file", o.ids_file, "the prompt: {\"ids\": [...]}")->required();
  command.add_option("--max-tokens", o.max_tokens, "sampled tokens, > 0")->required();
  command.add_option("--temperature", o.temperature, ">= 0, default 1; 0 is greedy");
  AddUnsigned(command, "--seed", o.seed, "default 0");
  command.add_flag("--ignore-eos", o.ignore_eos, "the model's own stop ids do not stop");
  command.add_option("--context", o.context, "none (default), kv_budget or segments");
  command.add_option("--set", o.sets, "context.KEY=VALUE, any number")->allow_extra_args(false);
}

void AddLaunch(CLI::App& app, LaunchOptions& o) {
  CLI::App& command = *app.add_subcommand("launch", "all daemons of a run, here or in a Slurm job");
  command.add_option("--config", o.config, "YAML of the run")->required();
  command.add_option("--set", o.sets, "a.b=c over the file, any number")->allow_extra_args(false);
  command.add_flag(
      "--slurm", o.slurm,
      "inside of a Slurm job: one step per daemon, on the nodes that placement: names");
}

// Errors go to stderr: 2 for a command line that makes no sense, 1 for work that failed.
int Finish(const std::string& command, const absl::Status& checked,
           const std::function<absl::Status()>& run) {
  const std::string name = "palimpsest " + command;
  if (!checked.ok()) return UsageError(name, checked);
  const absl::Status status = run();
  std::cout.flush();
  if (status.ok()) return kExitOk;
  std::cerr << name << ": " << status.ToString() << '\n';
  return kExitFailed;
}

int Main(int argc, char** argv) {
  CLI::App app("Palimpsest's command. stdout is JSON only; errors go to stderr.", "palimpsest");
  app.set_version_flag("--version", std::string(Version()));
  app.require_subcommand(1);
  TextOptions tokenize, detokenize;
  ScoreOptions score;
  GenerateOptions generate;
  LaunchOptions launch;
  AddTokenize(app, tokenize);
  AddDetokenize(app, detokenize);
  AddScore(app, score);
  AddGenerate(app, generate);
  AddLaunch(app, launch);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const std::string chosen = app.get_subcommands().front()->get_name();
  if (chosen == "launch") return RunLaunch(launch);
  if (chosen == "tokenize") {
    return Finish(chosen, CheckTokenize(tokenize),
                  [&] { return RunTokenize(tokenize, std::cin, std::cout); });
  }
  if (chosen == "detokenize") {
    return Finish(chosen, CheckTarget(detokenize.target),
                  [&] { return RunDetokenize(detokenize, std::cin, std::cout); });
  }
  if (chosen == "score") {
    return Finish(chosen, CheckScore(score), [&] { return RunScore(score, std::cout); });
  }
  return Finish(chosen, CheckGenerate(generate), [&] { return RunGenerate(generate, std::cout); });
}

}  // namespace
}  // namespace palimpsest::tools

int main(int argc, char** argv) { return palimpsest::tools::Main(argc, argv); }
