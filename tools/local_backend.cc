#include <algorithm>
#include <thread>

#include "absl/synchronization/notification.h"
#include "common/model/config.h"
#include "common/tokenizer/tokenizer.h"
#include "services/inference/engine/engine_factory.h"
#include "tools/backend.h"

namespace palimpsest::tools {
namespace {

using inference::Engine;

// Waits for the one sample of a request.
class OneSample final : public inference::GenerationSink {
 public:
  void OnTokens(inference::TokenChunk) override {}
  void OnEvent(int32_t, const context::Event&) override {}
  void OnFinished(inference::Finished finished) override {
    result_ = std::move(finished.rollout);
    done_.Notify();
  }
  void OnFailure(inference::Failure failure) override {
    result_ = failure.status;
    done_.Notify();
  }
  absl::StatusOr<rl::Rollout> Wait() {
    done_.WaitForNotification();
    return std::move(result_);
  }

 private:
  absl::StatusOr<rl::Rollout> result_ = absl::InternalError("no result");
  absl::Notification done_;
};

// Room for every position of the one sequence twice over (an event's new slots stand beside the old
// ones for a moment), and for the queries that its events listen to.
int64_t PoolBytes(const model::ModelConfig& config, const GenerateAsk& ask) {
  constexpr int64_t kNumber = sizeof(float);
  const int64_t positions = std::min<int64_t>(
      config.max_position,
      int64_t(ask.prompt.size()) + ask.sampling.max_tokens.value_or(config.max_position));
  const int64_t slot =
      int64_t{config.layers} * config.kv_heads * (2 * config.head_dim + 1) * kNumber;
  const int64_t query =
      int64_t{config.layers} * (config.heads + config.kv_heads) * config.head_dim * kNumber;
  const int64_t queries = 2 * std::min<int64_t>(positions, ask.context.reference_tokens);
  return std::max(inference::Limits{}.kv_pool_bytes, 2 * positions * slot + 2 * queries * query);
}

class LocalBackend final : public Backend {
 public:
  LocalBackend(std::string folder, std::string dtype, std::string device)
      : folder_(std::move(folder)), dtype_(std::move(dtype)), device_(std::move(device)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) override {
    RETURN_IF_ERROR(LoadTokenizer());
    return tokenizer_->Encode(text, add_special_tokens);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(const Chat& chat) override {
    RETURN_IF_ERROR(LoadTokenizer());
    const FolderChat folder = FolderChat::Read(folder_);
    RETURN_IF_ERROR(folder.own().status());
    return folder.own()->Encode(chat, *tokenizer_);
  }
  absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids,
                                     bool skip_special_tokens) override {
    RETURN_IF_ERROR(LoadTokenizer());
    return tokenizer_->Decode(ids, skip_special_tokens);
  }
  absl::StatusOr<Scored> Score(const ScoreAsk& ask) override {
    RETURN_IF_ERROR(LoadEngine(inference::Limits{}.kv_pool_bytes));
    ASSIGN_OR_RETURN(inference::ScoreResult result,
                     engine_->Score({ask.ids, ask.events, ask.temperature}));
    return Scored{.logprobs = std::move(result.logprobs)};
  }
  absl::StatusOr<rl::Rollout> Generate(const GenerateAsk& ask) override {
    ASSIGN_OR_RETURN(const model::ModelConfig config, model::ReadModelConfig(folder_));
    RETURN_IF_ERROR(LoadEngine(PoolBytes(config, ask)));
    const auto sink = std::make_shared<OneSample>();
    RETURN_IF_ERROR(engine_->Submit({.request_id = "command",
                                     .prompt = ask.prompt,
                                     .sampling = ask.sampling,
                                     .context = ask.context},
                                    sink));
    return sink->Wait();
  }

 private:
  absl::Status LoadTokenizer() {
    if (tokenizer_ != nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(folder_));
    return absl::OkStatus();
  }
  absl::Status LoadEngine(int64_t pool_bytes) {
    if (engine_ != nullptr) return absl::OkStatus();
    inference::EngineOptions options;
    options.model_folder = folder_;
    options.with_tokenizer = false;  // ids in, ids out: what tokenizer.json holds does not matter
    options.dtype = dtype_;
    options.device = device_;
    options.limits.kv_pool_bytes = pool_bytes;
    options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    ASSIGN_OR_RETURN(engine_, inference::MakeEngine(options));
    return absl::OkStatus();
  }

  const std::string folder_, dtype_, device_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<Backend> MakeLocalBackend(const std::string& model_folder, const std::string& dtype,
                                          const std::string& device) {
  return std::make_unique<LocalBackend>(model_folder, dtype, device);
}

}  // namespace palimpsest::tools
