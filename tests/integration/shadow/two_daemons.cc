#include "tests/integration/shadow/two_daemons.h"

#include <grpcpp/grpcpp.h>

#include <fstream>
#include <iterator>

#include "common/base/clock.h"
#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(2);  // other tests share the cores

absl::StatusOr<std::shared_ptr<grpc::Channel>> Reach(const std::string& run, const char* role) {
  ASSIGN_OR_RETURN(const Address address,
                   WaitForAddress(run, role, 0, SystemClock().Now() + kPatience, SystemClock()));
  return MakeChannel(address.host_port, {});
}

}  // namespace

TwoDaemons::TwoDaemons(std::string folder) : folder_(std::move(folder)) {
  std::ofstream(Config()) << "run: {name: shadow, folder: " << Run() << ", seed: 3}\n"
                          << "model:\n"
                             "  init: {layers: 2, hidden: 32, intermediate: 48, heads: 4, "
                             "kv_heads: 2, head_dim: 8, max_position: 128}\n"
                             "inference: {threads: 1, store_poll: 50ms, kv_pool_bytes: 16MiB}\n"
                             "trainer: {threads: 1, max_tokens_per_micro_batch: 256}\n";
}

absl::Status TwoDaemons::StartTrainer(const std::vector<std::string>& settings) {
  std::vector<std::string> command = {TRAINER, "--config", Config()};
  for (const std::string& setting : settings) {
    command.insert(command.end(), {"--set", setting});
  }
  trainer_ = std::make_unique<RankProcess>(std::move(command), folder_ + "/trainer.txt");
  ASSIGN_OR_RETURN(const auto channel, Reach(Run(), "trainer"));
  trainer_stub_ = v1::TrainerService::NewStub(channel);
  return absl::OkStatus();
}

int TwoDaemons::StopTrainer() {
  trainer_->Signal(SIGTERM);
  return trainer_->AwaitEnd(kPatience);
}

std::string TwoDaemons::TrainerLog() const {
  std::ifstream file(folder_ + "/trainer.txt.log");
  return {std::istreambuf_iterator<char>(file), {}};
}

absl::Status TwoDaemons::StartInference() {
  inference_ = std::make_unique<RankProcess>(
      std::vector<std::string>{INFERENCE, "--config", Config()}, folder_ + "/inference.txt");
  ASSIGN_OR_RETURN(const auto channel, Reach(Run(), "inference"));
  inference_stub_ = v1::InferenceService::NewStub(channel);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::Rollout>> TwoDaemons::Generate(const std::string& id, int samples,
                                                              uint64_t seed,
                                                              const v1::ContextPolicy& policy,
                                                              int64_t least) {
  v1::GenerateRequest request;
  request.set_request_id(id);
  for (int i = 0; i < 8; ++i) {
    request.mutable_prompt_ids()->add_ids(static_cast<int32_t>(65 + (seed + 3 * i) % 26));
  }
  request.set_n(samples);
  request.mutable_sampling()->set_max_tokens(56);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_sampling()->set_ignore_eos(true);
  *request.mutable_context() = policy;
  request.set_min_policy_version(least);
  const absl::Time until = absl::Now() + kPatience;
  absl::Status status;
  for (int attempt = 0; absl::Now() < until; ++attempt) {  // until that version is live
    request.set_request_id(id + "." + std::to_string(attempt));
    const auto context = MakeContext({});
    const auto reader = inference_stub_->Generate(context.get(), request);
    std::vector<v1::Rollout> rollouts;
    for (v1::GenerateResponse update; reader->Read(&update);) {
      if (update.has_finished()) rollouts.push_back(update.finished().rollout());
    }
    status = FromGrpc(reader->Finish());
    if (status.ok()) return rollouts;
    absl::SleepFor(absl::Milliseconds(30));
  }
  return status;
}

absl::StatusOr<v1::TrainBatchResponse> TwoDaemons::Train(int64_t step,
                                                         const std::vector<v1::Rollout>& rollouts,
                                                         double learning_rate) {
  v1::TrainBatchRequest request;
  request.set_batch_id("step-" + std::to_string(step));
  request.set_step(step);
  request.set_kind(v1::BATCH_KIND_RL);
  request.set_learning_rate(learning_rate);
  for (const v1::Rollout& rollout : rollouts) {
    v1::RlItem& item = *request.add_items()->mutable_rl();
    *item.mutable_rollout() = rollout;
    item.set_advantage(request.items_size() % 2 == 0 ? 1 : -0.7);
    item.set_weight(1);
    item.set_outcome(v1::OUTCOME_OK);
  }
  const auto context = MakeContext({.call_deadline = kPatience});
  v1::TrainBatchResponse response;
  RETURN_IF_ERROR(FromGrpc(trainer_stub_->TrainBatch(context.get(), request, &response)));
  return response;
}

absl::StatusOr<int64_t> TwoDaemons::Publish(int64_t step) {
  v1::PublishRequest request;
  request.set_step(step);
  const auto context = MakeContext({.call_deadline = kPatience});
  v1::PublishResponse response;
  RETURN_IF_ERROR(FromGrpc(trainer_stub_->Publish(context.get(), request, &response)));
  return response.weights().version();
}

v1::ContextPolicy EventsOf(v1::CompactionMethod method) {
  v1::ContextPolicy policy;
  policy.set_method(method);
  policy.set_reference_tokens(12);
  policy.mutable_kv_budget()->set_budget(24);
  policy.mutable_kv_budget()->set_window(12);
  return policy;
}

}  // namespace palimpsest
