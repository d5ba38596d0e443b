#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "palimpsest/v1/inference.pb.h"

// Requests of the OpenAI API -> what the replica is asked. Only what JSON and that API say is
// checked here; numbers, ids and policies are checked once for all, by the server's ParseGenerate.
namespace palimpsest::inference {

struct Ask {
  bool chat = false;
  std::string model;  // empty: not said
  // One for each prompt, without request_id. Samples are numbered on over the prompts: a sample's
  // number is the index of its choice.
  std::vector<v1::GenerateRequest> prompts;
  int32_t n = 1;  // choices of a prompt
  bool stream = false;
  bool include_usage = false;  // of a stream
  bool echo = false;
  bool logprobs = false;
  bool compacts = false;  // a context policy was asked for
};

// The bodies of /v1/completions and /v1/chat/completions. `fresh_seed` is taken when the request
// brings none. INVALID_ARGUMENT begins with the JSON field: "stream_options.x: this server ..".
absl::StatusOr<Ask> ParseCompletion(std::string_view body, uint64_t fresh_seed);
absl::StatusOr<Ask> ParseChat(std::string_view body, uint64_t fresh_seed);

}  // namespace palimpsest::inference
