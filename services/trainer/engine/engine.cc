#include "services/trainer/engine/engine.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <exception>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "common/weights/durable_file.h"
#include "services/trainer/engine/canary.h"
#include "services/trainer/engine/checkpoint_folder.h"
#include "services/trainer/engine/mismatch.h"
#include "services/trainer/engine/peak_memory.h"
#include "services/trainer/engine/sequences.h"

namespace palimpsest::trainer {
namespace {

constexpr char kOptimizerFile[] = "optimizer.safetensors";

attention::ReplayOptions OptionsFor(const EngineOptions& options, const model::Decoder& decoder) {
  return {.gradient = options.gradient,
          .scale = 1 / std::sqrt(static_cast<double>(decoder.config().head_dim))};
}

// -sum w n over tokens: maximum likelihood.
LossValue Likelihood(std::span<const TokenOutcome> tokens, std::span<const double> logprobs) {
  LossValue value;
  for (size_t i = 0; i < tokens.size(); ++i) {
    value.loss -= tokens[i].token->weight * logprobs[i];
    value.gradient.push_back(-tokens[i].token->weight);
  }
  return value;
}

rl::PolicyLossResult PolicyLossOf(const rl::PolicyLossOptions& options,
                                  std::span<const TokenOutcome> tokens,
                                  std::span<const double> logprobs) {
  std::vector<double> recorded, advantages, weights;
  for (const TokenOutcome& t : tokens) {
    recorded.push_back(t.token->recorded);
    advantages.push_back(t.token->advantage);
    weights.push_back(t.token->weight);
  }
  return rl::PolicyLoss(options, logprobs, recorded, advantages, weights);
}

RatioStats StatsOf(const rl::RatioSums& sums) {
  const auto tokens = static_cast<double>(std::max<int64_t>(1, sums.tokens));
  return {.mean = sums.ratio / tokens,
          .max = sums.max_ratio,
          .clip_share = static_cast<double>(sums.clipped) / tokens,
          .truncated_share = static_cast<double>(sums.truncated) / tokens,
          .effective_sample_size = sums.EffectiveShare()};
}

// Back to idle when it goes.
class PhaseScope {
 public:
  PhaseScope(std::atomic<Phase>& phase, Phase now) : phase_(phase) { phase_ = now; }
  ~PhaseScope() { phase_ = Phase::kIdle; }

 private:
  std::atomic<Phase>& phase_;
};

}  // namespace

struct TrainerEngine::Accumulated {
  PassResult pass;
  rl::RatioSums ratio;
  Mismatch mismatch;
};

TrainerEngine::TrainerEngine(const EngineOptions& options, SourceModel model, Clock& clock)
    : options_(options),
      clock_(clock),
      model_(std::move(model)),
      optimizer_(model_.decoder->Parameters(), options.optimizer) {
  const model::ModelConfig& config = model_.decoder->config();
  info_ = {.run = options.run.name,
           .max_tokens_per_micro_batch = options.max_tokens_per_micro_batch,
           .max_tokens_per_sequence =
               std::min(config.max_position, options.max_tokens_per_micro_batch + 1),
           .layers = config.layers,
           .kv_heads = config.kv_heads,
           .vocab = config.vocab};
}

absl::StatusOr<std::unique_ptr<TrainerEngine>> TrainerEngine::Open(const EngineOptions& options,
                                                                   Clock& clock) {
  RETURN_IF_ERROR(Validate(options));
  at::set_num_threads(options.threads);
  const std::string root = options.run.CheckpointFolder();
  ASSIGN_OR_RETURN(const int64_t attempt, NextAttempt(root));
  ASSIGN_OR_RETURN(const std::optional<FoundCheckpoint> found, NewestCheckpoint(root));
  ASSIGN_OR_RETURN(SourceModel source,
                   found ? LoadModel(found->folder, options.dtype)
                         : MakeModel(options.model, options.run.seed, options.dtype));
  std::unique_ptr<TrainerEngine> engine(new TrainerEngine(options, std::move(source), clock));
  if (found) {
    RETURN_IF_ERROR(
        engine->optimizer_.Load(found->folder + "/" + kOptimizerFile, found->state.updates));
    engine->ledger_ = found->state.ledger;
    engine->durable_step_ = engine->step();
  }
  ASSIGN_OR_RETURN(engine->store_, weights::StoreWriter::Open(options.run.StoreFolder(),
                                                              {.run = options.run.name,
                                                               .attempt = attempt,
                                                               .keep_last = options.keep_versions},
                                                              clock));
  Log(Severity::kInfo, found ? "resumed from a checkpoint" : "started from a new model",
      {{"step", engine->step()}, {"attempt", attempt}});
  return engine;
}

std::string TrainerEngine::last_batch_id() const {
  return ledger_.results().empty() ? "" : ledger_.results().back().batch_id;
}

absl::StatusOr<TrainerEngine::Admitted> TrainerEngine::Admit(const Batch& batch) const {
  ASSIGN_OR_RETURN(const std::vector<PublishedVersion> published, Published());
  Limits limits{.shape = {info_.layers, info_.kv_heads},
                .vocab = info_.vocab,
                .max_tokens_per_sequence = info_.max_tokens_per_sequence,
                .take_truncated_sampling = options_.take_truncated_sampling,
                .take_greedy = options_.take_greedy};
  if (!published.empty()) limits.newest = published.back().version;
  Admitted admitted{.rejected = batch.unreadable};
  const auto take = [&](const auto& item, const std::string& id, const auto& make) {
    if (std::optional<Rejected> why = Refuse(item, limits)) {
      admitted.rejected.push_back(*std::move(why));
      return;
    }
    absl::StatusOr<LossSequence> sequence = make(item);
    if (!sequence.ok()) {
      admitted.rejected.push_back(
          {id, RejectReason::kMalformed, std::string(sequence.status().message())});
    } else if (!sequence->tokens.empty()) {
      admitted.loss_tokens += static_cast<int64_t>(sequence->tokens.size());
      admitted.sequences.push_back(*std::move(sequence));
    }
  };
  for (const RlItem& item : batch.rl) {
    take(item, item.rollout.id,
         [](const RlItem& i) -> absl::StatusOr<LossSequence> { return SequenceOf(i); });
  }
  for (const SftItem& item : batch.sft) {
    take(item, item.id, [&](const SftItem& i) { return SequenceOf(i, limits.shape); });
  }
  for (LossSequence& sequence : admitted.sequences) {
    for (LossToken& token : sequence.tokens) {
      token.weight /= static_cast<double>(admitted.loss_tokens);
    }
  }
  return admitted;
}

absl::Status TrainerEngine::Accumulate(const Admitted& admitted, bool rl, Accumulated& sums) const {
  const LossFunction loss = [&](std::span<const TokenOutcome> tokens,
                                std::span<const double> logprobs) -> LossValue {
    if (!rl) return Likelihood(tokens, logprobs);
    rl::PolicyLossResult result = PolicyLossOf(options_.loss, tokens, logprobs);
    sums.ratio.Add(result.sums);
    sums.mismatch.Add(tokens, logprobs);
    return {result.loss, std::move(result.gradient)};
  };
  ASSIGN_OR_RETURN(const auto micro_batches,
                   Pack(admitted.sequences, options_.max_tokens_per_micro_batch));
  for (const std::vector<const LossSequence*>& micro_batch : micro_batches) {
    ASSIGN_OR_RETURN(
        const PassResult pass,
        RunPass(*model_.decoder, OptionsFor(options_, *model_.decoder), micro_batch, loss, clock_));
    sums.pass.loss += pass.loss;
    sums.pass.entropy_sum += pass.entropy_sum;
    sums.pass.rows += pass.rows;
    sums.pass.forward_seconds += pass.forward_seconds;
    sums.pass.backward_seconds += pass.backward_seconds;
  }
  return absl::OkStatus();
}

void TrainerEngine::TakeStep(const Batch& batch, StepResult& result) {
  phase_ = Phase::kOptimizer;
  const absl::Time start = clock_.Now();
  result.learning_rate = batch.learning_rate.value_or(LearningRate(options_.schedule, batch.step));
  result.grad_norm = optimizer_.GradientNorm();
  result.skipped =
      result.loss_tokens == 0 || !std::isfinite(result.grad_norm) || !std::isfinite(result.loss);
  if (!result.skipped) optimizer_.Step(result.learning_rate, result.grad_norm);
  optimizer_.ClearGradients();
  result.phases.emplace_back("optimizer", absl::ToDoubleSeconds(clock_.Now() - start));
}

absl::StatusOr<StepResult> TrainerEngine::Learn(const Batch& batch) {
  ResetPeakMemory();
  ASSIGN_OR_RETURN(Admitted admitted, Admit(batch));
  Accumulated sums;
  RETURN_IF_ERROR(Accumulate(admitted, !batch.rl.empty(), sums));
  StepResult result{
      .step = batch.step,
      .batch_id = batch.id,
      .loss = sums.pass.loss,
      .tokens = sums.pass.rows,
      .loss_tokens = admitted.loss_tokens,
      .entropy =
          sums.pass.entropy_sum / static_cast<double>(std::max<int64_t>(1, admitted.loss_tokens)),
      .mismatch = sums.mismatch.Buckets(),
      .rejected = std::move(admitted.rejected),
      .phases = {{"forward", sums.pass.forward_seconds}, {"backward", sums.pass.backward_seconds}}};
  if (!batch.rl.empty()) result.ratio = StatsOf(sums.ratio);
  TakeStep(batch, result);
  result.peak_bytes = PeakMemory();
  return result;
}

absl::StatusOr<TrainOutcome> TrainerEngine::Train(const Batch& batch) {
  RETURN_IF_ERROR(Validate(batch));
  ASSIGN_OR_RETURN(std::optional<StepResult> known, ledger_.Find(batch.step, batch.id));
  if (known) return TrainOutcome{*std::move(known), true};
  const PhaseScope scope(phase_, Phase::kReplay);
  absl::StatusOr<StepResult> result = absl::UnknownError("");
  try {
    result = Learn(batch);
  } catch (const std::exception& error) {  // torch throws: out of memory, a shape of ours
    result = absl::InternalError(absl::StrFormat("step %d: %s", batch.step, error.what()));
  }
  if (!result.ok()) {
    optimizer_.ClearGradients();
    return result.status();
  }
  ledger_.Add(*result);
  return TrainOutcome{*std::move(result), false};
}

absl::Status TrainerEngine::Save() {
  if (durable_step_ == step() && step() > 0) return absl::OkStatus();
  const PhaseScope scope(phase_, Phase::kCheckpoint);
  const auto fill = [&](const std::string& folder) -> absl::Status {
    RETURN_IF_ERROR(SaveModel(model_, folder));
    return optimizer_.Save(folder + "/" + kOptimizerFile);
  };
  RETURN_IF_ERROR(WriteCheckpoint(options_.run.CheckpointFolder(),
                                  {.updates = optimizer_.updates(), .ledger = ledger_},
                                  options_.keep_checkpoints, fill));
  durable_step_ = step();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PublishedVersion>> TrainerEngine::Published() const {
  const std::string store = options_.run.StoreFolder();
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(store));
  std::vector<PublishedVersion> published;
  for (const std::string& name : names) {
    if (!weights::VersionFromFolderName(name)) continue;
    const auto text = weights::ReadSmallFile(store + "/" + name + "/" + weights::kManifestName,
                                             weights::kMaxManifest);
    if (absl::IsNotFound(text.status())) continue;  // belongs to nobody
    RETURN_IF_ERROR(text.status());
    ASSIGN_OR_RETURN(const weights::Manifest manifest, weights::ManifestFromJson(*text));
    published.push_back({.version = manifest.version,
                         .parent = manifest.parent,
                         .source_step = manifest.source_step,
                         .run = manifest.run,
                         .attempt = manifest.attempt});
  }
  std::sort(published.begin(), published.end(),
            [](const auto& a, const auto& b) { return a.version < b.version; });
  return published;
}

absl::StatusOr<PublishedVersion> TrainerEngine::Publish() {
  const PhaseScope scope(phase_, Phase::kPublish);
  ASSIGN_OR_RETURN(const PolicyVersion version,
                   store_->Publish(step(), [&](const std::string& folder) {
                     return SaveVersion(model_, folder);
                   }));
  if (const auto deleted = store_->CollectGarbage(); !deleted.ok()) {
    Log(Severity::kWarning, "old versions stay", {{"why", deleted.status().ToString()}});
  }
  ASSIGN_OR_RETURN(const std::vector<PublishedVersion> published, Published());
  for (const PublishedVersion& p : published) {
    if (p.version == version) return p;
  }
  return absl::DataLossError(
      absl::StrFormat("version %d vanished from the store", version.value()));
}

}  // namespace palimpsest::trainer
