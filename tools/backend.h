#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/base/strong_int.h"
#include "common/context/policy.h"
#include "common/rl/rollout.h"
#include "common/rl/sampling.h"
#include "common/tokenizer/chat_template.h"

namespace palimpsest::tools {

struct GenerateAsk {
  std::vector<int32_t> prompt;
  rl::SamplingParams sampling;
  context::ContextPolicy context;
};

struct ScoreAsk {
  std::vector<int32_t> ids;            // at least 2
  std::vector<context::Event> events;  // forced; a missing digest is filled in
  double temperature = 1;
};

struct Scored {
  std::vector<float> logprobs;           // [ids - 1] nats
  std::optional<PolicyVersion> version;  // of the weights; a folder tells none
};

// Who does what a command asks: this process with a model folder, or a running server. One thread.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                                      bool add_special_tokens) = 0;
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(const Chat& chat) = 0;
  virtual absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids,
                                             bool skip_special_tokens) = 0;
  virtual absl::StatusOr<Scored> Score(const ScoreAsk& ask) = 0;
  virtual absl::StatusOr<rl::Rollout> Generate(const GenerateAsk& ask) = 0;
};

// In process. Loads only what is asked for: Encode and Decode read tokenizer.json alone, EncodeChat
// the chat template too, Score and Generate do without both. `dtype`: "float32" or "bfloat16".
// `device`, of Generate: "cpu" or "cuda".
std::unique_ptr<Backend> MakeLocalBackend(const std::string& model_folder, const std::string& dtype,
                                          const std::string& device);

// Over gRPC. Speaks to "host:port" when first used and refuses a peer of another contract revision.
// `tls`: folder with ca.pem and client.pem; empty: clear text.
// Score and Generate are FAILED_PRECONDITION while the server has older weights than `min_version`.
absl::StatusOr<std::unique_ptr<Backend>> MakeRemoteBackend(
    const std::string& server, std::optional<int64_t> min_version = std::nullopt,
    const std::string& tls = "");

}  // namespace palimpsest::tools
