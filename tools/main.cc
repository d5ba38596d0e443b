#include <CLI/CLI.hpp>
#include <charconv>
#include <functional>
#include <iostream>
#include <limits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/model/huge_pages.h"
#include "common/rpc/daemon.h"
#include "tools/commands.h"
#include "tools/doctor/doctor.h"
#include "tools/eval/eval.h"
#include "tools/fsck/fsck.h"
#include "tools/launch/launch.h"
#include "tools/launch/serve.h"
#include "tools/watch/watch.h"

namespace palimpsest::tools {
namespace {

// Only digits, and a number that Value holds: CLI11 would take -1 for 2^64 - 1, and 010 for 8.
template <class Value>
CLI::Option* AddWhole(CLI::App& command, const std::string& name, const std::string& doc,
                      const std::function<void(Value)>& set) {
  const auto read = [set, name](const std::string& text) {
    Value value = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || at != end || text.starts_with('-')) {
      throw CLI::ValidationError(absl::StrFormat("%s: %s is not a whole number of [0, 2^%d)", name,
                                                 text, std::numeric_limits<Value>::digits));
    }
    set(value);
  };
  return command.add_option_function<std::string>(name, read, doc);
}

void AddTarget(CLI::App& command, Target& target) {
  command.add_option("--model", target.model, "Hugging Face folder; the work is done in process");
  command.add_option("--server", target.server, "HOST:PORT of an inference daemon");
  command.add_option("--tls", target.tls, "folder with ca.pem and client.pem, of a server's run");
}

void AddWeightsTarget(CLI::App& command, Target& target) {
  AddTarget(command, target);
  command.add_option("--dtype", target.dtype, "float32 (default) or bfloat16");
  AddWhole<int64_t>(command, "--min-policy-version",
                    "of a server's weights: older ones are refused",
                    [&target](int64_t version) { target.min_policy_version = version; });
}

void AddTokenize(CLI::App& app, TextOptions& o) {
  CLI::App& command = *app.add_subcommand("tokenize", "text on stdin -> {\"ids\": [...]}");
  AddTarget(command, o.target);
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
  AddTarget(command, o.target);
  command.add_flag("--jsonl", o.jsonl, "one {\"ids\": [...]} a line in, one {\"text\": ...} out");
  command.add_flag("--skip-special-tokens", o.special_tokens, "leave special tokens out");
}

void AddScore(CLI::App& app, ScoreOptions& o) {
  CLI::App& command =
      *app.add_subcommand("score", "log-probability of each token after the first, nats");
  AddWeightsTarget(command, o.target);
  command
      .add_option("--ids-file", o.ids_file,
                  "{\"ids\": [...]}, or the output of generate: \"prompt_ids\" come before \"ids\"")
      ->required();
  command.add_option("--events-file", o.events_file,
                     "the context log to replay: an \"events\" array as generate prints it");
  command.add_option("--temperature", o.temperature, "> 0, default 1");
}

void AddGenerate(CLI::App& app, GenerateOptions& o) {
  CLI::App& command = *app.add_subcommand("generate", "continues a prompt, compacting as asked");
  AddWeightsTarget(command, o.target);
  command.add_option("--device", o.target.device, "cpu (default) or cuda, of a model in process");
  command.add_option("--ids-file", o.ids_file, "the prompt: {\"ids\": [...]}, or as for score")
      ->required();
  AddWhole<int32_t>(command, "--max-tokens", "sampled tokens, > 0", [&o](int32_t tokens) {
    o.max_tokens = tokens;
  })->required();
  command.add_option("--temperature", o.temperature, ">= 0, default 1; 0 is greedy");
  AddWhole<uint64_t>(command, "--seed", "default 0", [&o](uint64_t seed) { o.seed = seed; });
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

void AddServe(CLI::App& app, ServeOptions& o) {
  CLI::App& command = *app.add_subcommand("serve", "an inference daemon for a model, until Ctrl-C");
  command.add_option("--model", o.model, "Hugging Face folder")->required();
  command.add_option("--port", o.port, "on 127.0.0.1; default 0: a free one");
  command.add_option("--replicas", o.replicas, "default 1; several stand behind a router");
  command.add_option("--folder", o.folder, "of the daemon, default runs/serve");
  command.add_option("--tls", o.tls, "folder with ca.pem, inference.pem, operator.pem");
  command.add_option("--set", o.sets, "inference.KEY=VALUE, any number")->allow_extra_args(false);
}

void AddFsck(CLI::App& app, FsckOptions& o) {
  CLI::App& command = *app.add_subcommand("fsck", "proves from a run's disk that it is sound");
  command.add_option("run", o.run, "folder of the run, alive or not")->required();
  AddWhole<int64_t>(command, "--max-staleness",
                    "orchestrator.rl.max_staleness of the run, to judge",
                    [&o](int64_t bound) { o.max_staleness = bound; });
}

void AddDoctor(CLI::App& app, DoctorOptions& o) {
  CLI::App& command = *app.add_subcommand(
      "doctor", "can this machine, or each node of this Slurm job, hold the run?");
  command.add_option("--config", o.config, "YAML of the run")->required();
  command.add_option("--set", o.sets, "a.b=c over the file, any number")->allow_extra_args(false);
  command.add_flag("--slurm", o.slurm, "inside of a Slurm job: on every node, and between them");
  // How --slurm starts it on a node.
  command.add_option("--meeting", o.meeting)->group("");
}

void AddWatch(CLI::App& app, WatchOptions& o) {
  CLI::App& command = *app.add_subcommand("watch", "a run as it goes on, or as it was");
  command.add_option("run", o.target, "folder of the run, or HOST:PORT of its page")->required();
  command.add_flag("--once", o.once, "one look; without a terminal always");
  command.add_option("--tls", o.tls, "folder with ca.pem and operator.pem");
  command.add_option("--web", o.web, "HOST:PORT: serve the page of the folder there, until Ctrl-C");
}

void AddEval(CLI::App& app, eval::EvalOptions& o) {
  CLI::App& command = *app.add_subcommand("eval", "tasks under several policies, compared");
  command.add_option("--server", o.server, "HOST:PORT of an inference daemon");
  command.add_option("--model", o.model, "Hugging Face folder; it is served meanwhile");
  command.add_option("--env", o.env, "HOST:PORT of an environment daemon");
  command.add_option("--config", o.config, "YAML whose env: section is served meanwhile");
  command.add_option("--set", o.sets, "inference.KEY=VALUE or env.KEY=VALUE of what is served")
      ->allow_extra_args(false);
  command.add_option("--tls", o.tls, "folder with ca.pem and client.pem, for --server and --env");
  command.add_option("--tasks", o.tasks, "NAME[=WEIGHT],...")->required();
  AddWhole<int64_t>(command, "--n", "prompts in all, default 100", [&o](int64_t n) { o.n = n; });
  command.add_option("--split", o.split, "heldout (default), train or sft");
  AddWhole<uint64_t>(command, "--seed", "default 0", [&o](uint64_t seed) { o.seed = seed; });
  command.add_option("--samples", o.samples, "of each prompt under each policy, default 1");
  command
      .add_option(
          "--policy", o.policies,
          "NAME[:KEY=VALUE,...], any number; keys: kind and those of --set context.*; inject; "
          "population, aggregate, rounds")
      ->allow_extra_args(false);
  command.add_option("--baselines", o.baselines,
                     "budget=B,window=W[,...]: full, short, recent, attention, markovian, "
                     "attention_matching");
  command.add_option("--max-tokens", o.max_tokens,
                     "of a response, default: as the environment says");
  command.add_option("--temperature", o.temperature, ">= 0, default 1; 0 is greedy");
  command.add_option("--right", o.right, "reward from which an answer is right, default 1");
  command.add_option("--concurrency", o.concurrency, "answers at once, default 16");
  command.add_option("--tries", o.tries, "of each answer, default 8");
  command.add_option("--out", o.out, "folder of answers and report")->required();
}

// What was typed, for a shell to read again.
std::string CommandLine(int argc, char** argv) {
  constexpr char kPlain[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%";
  std::string line;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain = !word.empty() && word.find_first_not_of(kPlain) == std::string::npos;
    line += i > 0 ? " " : "";
    line += plain ? word : "'" + absl::StrReplaceAll(word, {{"'", "'\\''"}}) + "'";
  }
  return line;
}

// The first word must be a subcommand; CLI11 would only say that one is missing.
absl::Status CheckSubcommand(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return absl::OkStatus();
  std::string known;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == argv[1]) return absl::OkStatus();
    known += (known.empty() ? "" : ", ") + command->get_name();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("there is no subcommand \"%s\"; there are: %s", argv[1], known));
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
  LaunchOptions launch{.command = CommandLine(argc, argv)};
  ServeOptions serve;
  FsckOptions fsck;
  DoctorOptions doctor;
  WatchOptions watch;
  eval::EvalOptions evaluation{.command = CommandLine(argc, argv)};
  AddTokenize(app, tokenize);
  AddDetokenize(app, detokenize);
  AddScore(app, score);
  AddGenerate(app, generate);
  AddLaunch(app, launch);
  AddServe(app, serve);
  AddFsck(app, fsck);
  AddDoctor(app, doctor);
  AddWatch(app, watch);
  AddEval(app, evaluation);
  const absl::Status known = CheckSubcommand(app, argc, argv);
  if (!known.ok()) return UsageError("palimpsest", known);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const std::string chosen = app.get_subcommands().front()->get_name();
  if (chosen == "launch") return RunLaunch(launch);
  if (chosen == "fsck") return RunFsck(fsck, std::cout, std::cerr);
  if (chosen == "doctor") return RunDoctor(doctor, std::cout, std::cerr);
  if (chosen == "serve") {
    const absl::Status sound = CheckServe(serve);
    return sound.ok() ? RunServe(serve) : UsageError("palimpsest serve", sound);
  }
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
  if (chosen == "watch") {
    return Finish(chosen, CheckWatch(watch), [&] { return RunWatch(watch, std::cout, std::cerr); });
  }
  if (chosen == "eval") {
    return Finish(chosen, eval::CheckEval(evaluation),
                  [&] { return eval::RunEval(evaluation, std::cout); });
  }
  return Finish(chosen, CheckGenerate(generate), [&] { return RunGenerate(generate, std::cout); });
}

}  // namespace
}  // namespace palimpsest::tools

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::tools::Main(argc, argv);
}
