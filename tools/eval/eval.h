#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::tools::eval {

struct EvalOptions {
  // Where the answers come from: one of the two.
  std::string server;  // host:port of an inference daemon
  std::string model;   // Hugging Face folder, served by a daemon of this evaluation's own
  // Who asks and judges: one of the two.
  std::string env;                // host:port of an environment daemon
  std::string config;             // YAML whose env: an own daemon reads
  std::string tls;                // folder with client.pem, for `server` and `env`
  std::vector<std::string> sets;  // inference.KEY=VALUE, env.KEY=VALUE, for own daemons

  std::string tasks;                  // "a,b=2"
  int64_t n = 100;                    // prompts in all, > 0
  std::string split = "heldout";      // or train, sft
  uint64_t seed = 0;                  // of prompts and draws
  int samples = 1;                    // > 0
  std::vector<std::string> policies;  // see eval/policy.h
  std::string baselines;              // likewise
  int max_tokens = 0;                 // of one response; 0: what the environment says
  double temperature = 1;             // >= 0
  double right = 1;                   // reward from which an answer is right
  int concurrency = 16;               // answers at once, [1, 1024]
  int tries = 8;                      // of each answer, > 0
  std::string out;                    // folder
  std::string command;                // what was typed, for the report
};

// Is the command line sound? Asks nobody.
absl::Status CheckEval(const EvalOptions& options);

// Asks for the answers that OUT/answers.jsonl lacks, then writes eval.json, eval.md and eval.svg
// there, and one line of JSON to `out`: {"report", "answers", "missing"}. UNAVAILABLE after it when
// answers are missing. Progress goes to stderr.
absl::Status RunEval(const EvalOptions& options, std::ostream& out);

}  // namespace palimpsest::tools::eval
