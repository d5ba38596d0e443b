#include "tests/simulation/trainer.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "tests/simulation/weights_file.h"

namespace palimpsest::simulation {
namespace {

constexpr absl::Duration kCall = absl::Seconds(10);
constexpr absl::Duration kPublishCall = absl::Seconds(30);
constexpr int kMaxQueued = 3;

absl::Status Gone() { return absl::UnavailableError("the trainer is away"); }

}  // namespace

class SimTrainer::Turn {
 public:
  static absl::StatusOr<std::unique_ptr<Turn>> Take(SimTrainer& trainer) {
    if (!trainer.up_) return Gone();
    if (trainer.queued_ >= kMaxQueued) return absl::ResourceExhaustedError("the queue is full");
    const int now = trainer.life_;
    ++trainer.queued_;
    trainer.scheduler_.WaitUntil([&] { return !trainer.busy_ || trainer.life_ != now; },
                                 absl::InfiniteDuration());
    if (trainer.life_ != now) return Gone();
    --trainer.queued_;
    trainer.busy_ = true;
    return std::make_unique<Turn>(trainer);
  }
  explicit Turn(SimTrainer& trainer) : life(trainer.life_), trainer_(trainer) {}
  ~Turn() {
    if (trainer_.life_ == life) trainer_.busy_ = false;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  const int life;

 private:
  SimTrainer& trainer_;
};

SimTrainer::SimTrainer(const Scenario& scenario, std::string store, Scheduler& scheduler,
                       Network& network, History& history, Promises& promises)
    : scenario_(scenario),
      store_(std::move(store)),
      scheduler_(scheduler),
      network_(network),
      history_(history),
      promises_(promises),
      random_(MixSeed({scenario.seed, Meaning("trainer")})) {
  const std::vector<std::string> special = {"<|end|>"};
  tokenizer_ = ByteTokenizerJson(special).value();
  scheduler_.Spawn([this] { Begin(); });
}

void SimTrainer::Die() {
  history_.Add(absl::StrFormat("trainer dies at step %d, %d are durable", state_.ledger.step(),
                               durable_step()));
  ++life_;
  up_ = busy_ = false;
  queued_ = 0;
  state_ = saved_;
  writer_.reset();
  scheduler_.Spawn([this, life = life_, away = 20 * random_.Uniform()] {
    scheduler_.SleepFor(absl::Seconds(away));
    if (life == life_) Begin();
  });
}

// At its start it publishes the weights that it has: a no-op when the newest version is the same.
void SimTrainer::Begin() {
  const int life = life_;
  if (!Work(life, 1)) return;
  writer_ = weights::StoreWriter::Open(store_, {.run = "simulation", .attempt = life}, scheduler_)
                .value();
  PublishNow().IgnoreError();
  if (life != life_) return;
  up_ = true;
  history_.Add(absl::StrFormat("trainer serves, at step %d", state_.ledger.step()));
}

bool SimTrainer::Work(int life, double seconds) {
  scheduler_.SleepFor(absl::Seconds(seconds * (0.2 + random_.Uniform())));
  return life == life_;
}

absl::StatusOr<orchestrator::TrainerStatus> SimTrainer::Tell() const {
  if (!up_) return Gone();
  return orchestrator::TrainerStatus{.step = state_.ledger.step(),
                                     .durable_step = durable_step(),
                                     .published = published_,
                                     .serving = true};
}

absl::StatusOr<orchestrator::TrainResult> SimTrainer::Learn(const orchestrator::TrainBatch& batch) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Turn> turn, Turn::Take(*this));
  promises_.BatchCame(batch);
  orchestrator::TrainResult result{.loss = 1.0 / static_cast<double>(batch.step),
                                   .loss_tokens = 10};
  ASSIGN_OR_RETURN(const auto before, state_.ledger.Find(batch.step, batch.id));
  result.already_trained = before.has_value();
  if (before.has_value() && scenario_.plant != Plant::kBatchTrainedTwice) return result;
  if (!Work(turn->life, 2)) return Gone();
  state_.batches.push_back(batch.id);
  if (before.has_value()) return result;
  state_.ledger.Add({.step = batch.step, .batch_id = batch.id});
  if (batch.step % scenario_.checkpoint_every == 0) saved_ = state_;
  if (!batch.rl.empty()) result.mismatch = {{0, 30, 1e-6, 1e-3}};
  for (const orchestrator::RlItem& item : batch.rl) {
    const int64_t step = batch.step + (scenario_.plant == Plant::kReplayOfAnother ? 1 : 0);
    result.replayed.push_back({item.rollout.id, ReplayOf(step, item.rollout)});
  }
  return result;
}

absl::StatusOr<orchestrator::Weights> SimTrainer::PublishNow() {
  const int life = life_;
  if (!Work(life, 0.5)) return Gone();
  if (dies_publishing_) {
    dies_publishing_ = false;
    LeaveHalfAVersion();
    Die();
    return Gone();
  }
  const std::string weights = absl::StrJoin(state_.batches, " ");
  const int64_t step = state_.ledger.step();
  ASSIGN_OR_RETURN(const PolicyVersion version,
                   writer_->Publish(step, [&](const std::string& folder) {
                     std::ofstream(folder + "/" + kWeightsFile) << weights;
                     std::ofstream(folder + "/tokenizer.json") << tokenizer_;
                     return absl::OkStatus();
                   }));
  if (published_.empty() || published_.back().version != version) {
    published_.push_back({.version = version, .step = step, .run = "simulation", .attempt = life});
    promises_.Published(version.value(), step, weights);
  }
  ASSIGN_OR_RETURN(const std::vector<PolicyVersion> deleted, writer_->CollectGarbage());
  std::erase_if(published_, [&](const orchestrator::Weights& w) {
    return std::find(deleted.begin(), deleted.end(), w.version) != deleted.end();
  });
  history_.Add(absl::StrFormat("version %d is of step %d", version.value(), step));
  return published_.back();
}

// As a kill at different moments of a publish leaves it.
void SimTrainer::LeaveHalfAVersion() {
  const int64_t next = published_.empty() ? 1 : published_.back().version.value() + 1;
  const bool renamed = random_.Below(3) > 0;
  const std::string folder =
      store_ + "/" + (renamed ? weights::FolderName(PolicyVersion(next)) : ".tmp-simulation-1-1");
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/" + kWeightsFile) << "half of";
  if (renamed && random_.Below(2) > 0) std::ofstream(folder + "/.tmp-simulation-1-2") << "{";
}

absl::StatusOr<orchestrator::TrainerStatus> SimTrainer::Status() {
  return network_.Call<orchestrator::TrainerStatus>("trainer.status", kCall,
                                                    [this] { return Tell(); });
}

absl::StatusOr<orchestrator::TrainResult> SimTrainer::Train(const orchestrator::TrainBatch& batch) {
  return network_.Call<orchestrator::TrainResult>("trainer.train " + batch.id,
                                                  scenario_.plan.peers.train_deadline,
                                                  [this, batch] { return Learn(batch); });
}

absl::StatusOr<orchestrator::Weights> SimTrainer::Publish(int64_t step) {
  return network_.Call<orchestrator::Weights>(
      absl::StrFormat("trainer.publish %d", step), kPublishCall,
      [this, step]() -> absl::StatusOr<orchestrator::Weights> {
        ASSIGN_OR_RETURN(const std::unique_ptr<Turn> turn, Turn::Take(*this));
        if (step == state_.ledger.step()) return PublishNow();
        const auto old = std::find_if(published_.rbegin(), published_.rend(),
                                      [step](const auto& w) { return w.step == step; });
        if (old != published_.rend()) return *old;
        return absl::FailedPreconditionError(
            absl::StrFormat("step=%d, the trainer is at %d", step, state_.ledger.step()));
      });
}

absl::StatusOr<int64_t> SimTrainer::SaveCheckpoint() {
  return network_.Call<int64_t>("trainer.save", kCall, [this]() -> absl::StatusOr<int64_t> {
    ASSIGN_OR_RETURN(const std::unique_ptr<Turn> turn, Turn::Take(*this));
    saved_ = state_;
    return durable_step();
  });
}

}  // namespace palimpsest::simulation
