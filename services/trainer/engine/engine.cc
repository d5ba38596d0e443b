#include "services/trainer/engine/engine.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/collective/exchange.h"
#include "common/model/borrowed_threads.h"
#include "common/telemetry/log.h"
#include "common/weights/durable_file.h"
#include "services/trainer/engine/accumulate.h"
#include "services/trainer/engine/canary.h"
#include "services/trainer/engine/checkpoint_ranks.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/peak_memory.h"
#include "services/trainer/engine/reference.h"
#include "services/trainer/engine/sequences.h"
#include "services/trainer/engine/share.h"

namespace palimpsest::trainer {
namespace {

// What `work` returns, or what torch throws in it: out of memory, a shape of ours.
template <class Work>
absl::Status Caught(int64_t step, const Work& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrFormat("step %d: %s", step, error.what()));
  }
}

// FAILED_PRECONDITION when the views were too far apart where they were last compared.
absl::Status CheckViews(const rl::ViewGates& gates, const StepLedger& ledger) {
  const std::deque<StepResult>& results = ledger.results();
  const auto last = std::find_if(results.rbegin(), results.rend(),
                                 [](const StepResult& r) { return r.views.has_value(); });
  if (last == results.rend()) return absl::OkStatus();
  for (const rl::Breach& breach : rl::Judge(gates, *last->views)) {
    if (!breach.stop) continue;
    return absl::FailedPreconditionError(absl::StrFormat(
        "step %d: %s, of trainer.shadow: no more is taken", last->step, breach.what));
  }
  return absl::OkStatus();
}

void WarnOfViews(const rl::ViewGates& gates, const rl::ViewReport& report, int64_t step) {
  for (const rl::Breach& breach : rl::Judge(gates, report)) {
    Log(Severity::kWarning, "dense and shadow view are far apart",
        {{"step", step}, {"section", "trainer.shadow"}, {"why", breach.what}});
  }
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

TrainerEngine::TrainerEngine(const EngineOptions& options, SourceModel model,
                             CheckpointFolder checkpoints, StepLedger ledger, Clock& clock,
                             Collective& ranks)
    : options_(options),
      clock_(clock),
      ranks_(ranks),
      model_(std::move(model)),
      shards_(model_.decoder->Parameters(), ranks, options.weights),
      optimizer_(shards_, options.optimizer),
      ledger_(std::move(ledger)),
      writer_(std::move(checkpoints), ledger_.step(), clock, ranks) {
  model_.decoder->SetActivations(options.activations);
  if (shards_.sharded()) model_.decoder->SetLayerKeeper(&shards_);
  const model::ModelConfig& config = model_.decoder->config();
  info_ = {.run = options.run.name,
           .ranks = ranks.size(),
           .max_tokens_per_micro_batch = options.max_tokens_per_micro_batch,
           // The last token is no row. A cap of 2^31 - 1 rows is none.
           .max_tokens_per_sequence = static_cast<int32_t>(std::min<int64_t>(
               config.max_position, int64_t{options.max_tokens_per_micro_batch} + 1)),
           .layers = config.layers,
           .kv_heads = config.kv_heads,
           .vocab = config.vocab};
}

absl::StatusOr<std::unique_ptr<TrainerEngine>> TrainerEngine::Open(const EngineOptions& options,
                                                                   Clock& clock,
                                                                   Collective& ranks) {
  RETURN_IF_ERROR(Validate(options));
  model::UseThreads(options.threads);
  const model::BorrowedThreads threads;  // steps are another thread's
  CheckpointFolder checkpoints(options.run.CheckpointFolder(),
                               {options.keep_checkpoints, options.keep_every});
  ASSIGN_OR_RETURN(const std::optional<FoundCheckpoint> found,
                   ResumeTogether(ranks, checkpoints, options.resume));
  ASSIGN_OR_RETURN(SourceModel source,
                   found ? LoadModel(found->folder, options.dtype)
                         : MakeModel(options.model, options.run.seed, options.dtype));
  if (found) RETURN_IF_ERROR(CheckGoesOn(options.model, source.decoder->config()));
  std::unique_ptr<TrainerEngine> engine(
      new TrainerEngine(options, std::move(source), std::move(checkpoints),
                        found ? found->state.ledger : StepLedger(), clock, ranks));
  if (found) {
    RETURN_IF_ERROR(
        engine->optimizer_.Load(found->folder, ranks.rank(), ranks.size(), found->state.updates));
    RETURN_IF_ERROR(engine->shards_.Gather());
  }
  if (options.loss.reference_kl.coefficient > 0) {
    ASSIGN_OR_RETURN(engine->reference_, LoadReference(options, engine->decoder().config()));
  }
  if (ranks.rank() == 0) RETURN_IF_ERROR(engine->OpenStore());
  Log(Severity::kInfo, found ? "resumed from a checkpoint" : "started from a new model",
      {{"step", engine->step()}, {"rank", ranks.rank()}, {"ranks", ranks.size()}});
  return engine;
}

absl::Status TrainerEngine::OpenStore() {
  int64_t used = -1;
  if (const auto published = Published(); published.ok()) {
    for (const PublishedVersion& version : *published) used = std::max(used, version.attempt);
  }
  ASSIGN_OR_RETURN(const int64_t attempt, NextAttempt(options_.run.CheckpointFolder(), used));
  ASSIGN_OR_RETURN(store_, weights::StoreWriter::Open(options_.run.StoreFolder(),
                                                      {.run = options_.run.name,
                                                       .attempt = attempt,
                                                       .keep_last = options_.keep_versions},
                                                      clock_));
  return absl::OkStatus();
}

std::string TrainerEngine::last_batch_id() const {
  return ledger_.results().empty() ? "" : ledger_.results().back().batch_id;
}

// By rank 0, which writes them: another node may see the store later.
absl::StatusOr<std::optional<PolicyVersion>> TrainerEngine::NewestVersion() const {
  absl::StatusOr<std::string> text = "";
  if (ranks_.rank() == 0) {
    const absl::StatusOr<std::vector<PublishedVersion>> published = Published();
    if (!published.ok()) {
      text = published.status();
    } else if (!published->empty()) {
      text = absl::StrFormat("%d", published->back().version.value());
    }
  }
  ASSIGN_OR_RETURN(const std::string told, OfFirst(ranks_, std::move(text)));
  int64_t version = 0;
  if (!absl::SimpleAtoi(told, &version)) return std::nullopt;
  return PolicyVersion(version);
}

absl::StatusOr<TrainerEngine::Admitted> TrainerEngine::Admit(
    const Batch& batch, std::optional<PolicyVersion> newest) const {
  const Limits limits{.shape = {info_.layers, info_.kv_heads},
                      .vocab = info_.vocab,
                      .max_tokens_per_sequence = info_.max_tokens_per_sequence,
                      .newest = newest,
                      .take_truncated_sampling = options_.take_truncated_sampling,
                      .take_greedy = options_.take_greedy};
  Admitted admitted{.rejected = batch.unreadable};
  int32_t items = 0;  // looked at
  const auto take = [&](const auto& item, const std::string& id, const auto& make) {
    const int32_t place = items++;
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
      sequence->item = place;
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
  // Demonstrations are learnt as a mean over their tokens, whatever method is set for rollouts.
  WeighTokens(batch.rl.empty() ? rl::AggregationOptions{} : options_.loss.aggregation,
              admitted.sequences);
  return admitted;
}

PassViews TrainerEngine::ViewsOfNextStep() const {
  const rl::ViewOptions& o = options_.shadow;
  // Of rollouts, as far as they are remembered: no less than a warm-up may have.
  const auto before = std::count_if(ledger_.results().begin(), ledger_.results().end(),
                                    [](const StepResult& r) { return r.ratio.has_value(); });
  return {.learner = o.learner,
          .distillation = o.distillation.kind,
          .coefficient = rl::CoefficientAt(o.distillation, before + 1),
          .compare = o.measure_every > 0 && (step() + 1) % o.measure_every == 0};
}

// How often all ranks go over the layers together: as often as the one with the most to do.
absl::StatusOr<size_t> TrainerEngine::PassesTogether(size_t micro_batches) const {
  ASSIGN_OR_RETURN(const std::vector<size_t> all, OneOfAll(ranks_, micro_batches));
  return *std::max_element(all.begin(), all.end());
}

absl::Status TrainerEngine::LearnFrom(const MicroBatches& micro_batches, bool rl, size_t together,
                                      Accumulated& sums) {
  // What a demonstration sees is not recorded but asked for: it has no other view.
  const Learning learning{.options = options_,
                          .decoder = *model_.decoder,
                          .reference = rl ? reference_.get() : nullptr,
                          .rollouts = rl,
                          .views = rl ? ViewsOfNextStep() : PassViews{},
                          // All make the same passes where layers are gathered by passes.
                          .cut_prompts_once = !shards_.sharded()};
  RETURN_IF_ERROR(Accumulate(learning, micro_batches, clock_, sums));
  for (size_t i = micro_batches.size(); i < together; ++i) {
    for (const bool backward : BackwardOfPasses(learning.views)) shards_.PassOfNothing(backward);
  }
  return absl::OkStatus();
}

// The share of this rank. What fails here fails on all ranks, and nothing has happened; where
// layers are gathered by passes a failure in a pass leaves the others in the middle of theirs.
absl::Status TrainerEngine::Replay(const Batch& batch, const std::optional<PolicyVersion>& newest,
                                   Admitted& admitted, Accumulated& sums) {
  MicroBatches micro_batches;
  const auto pack = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(admitted, Admit(batch, newest));
    admitted.sequences = ShareOf(std::move(admitted.sequences), model_.decoder->config(),
                                 ranks_.rank(), ranks_.size());
    ASSIGN_OR_RETURN(micro_batches, Pack(admitted.sequences, model_.decoder->config(),
                                         options_.max_tokens_per_micro_batch));
    return absl::OkStatus();
  };
  const auto pass = [&](size_t together) {
    return Caught(batch.step,
                  [&] { return LearnFrom(micro_batches, !batch.rl.empty(), together, sums); });
  };
  absl::Status packed = Caught(batch.step, pack);
  if (!shards_.sharded()) {
    if (packed.ok()) packed = pass(micro_batches.size());
    return Agree(ranks_, packed);
  }
  RETURN_IF_ERROR(Agree(ranks_, packed));
  ASSIGN_OR_RETURN(const size_t together, PassesTogether(micro_batches.size()));
  const absl::Status passed = pass(together);
  if (!passed.ok()) ranks_.Fail(passed);
  return ranks_.health();
}

absl::Status TrainerEngine::TakeStep(const Batch& batch, StepResult& result) {
  phase_ = Phase::kOptimizer;
  const absl::Time start = clock_.Now();
  result.learning_rate = batch.learning_rate.value_or(LearningRate(options_.schedule, batch.step));
  ASSIGN_OR_RETURN(const std::vector<at::Tensor> gradients, shards_.TakeGradients());
  ASSIGN_OR_RETURN(const std::vector<double> squares, OneOfAll(ranks_, SquaredNorm(gradients)));
  result.grad_norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  result.skipped =
      result.loss_tokens == 0 || !std::isfinite(result.grad_norm) || !std::isfinite(result.loss);
  if (!result.skipped) {
    optimizer_.Step(result.learning_rate, result.grad_norm, gradients);
    RETURN_IF_ERROR(shards_.Gather());
  }
  result.phases.emplace_back("optimizer", absl::ToDoubleSeconds(clock_.Now() - start));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> TrainerEngine::Learn(const Batch& batch) {
  ResetPeakMemory();
  RETURN_IF_ERROR(writer_.Meet());
  ASSIGN_OR_RETURN(const std::optional<PolicyVersion> newest, NewestVersion());
  Admitted admitted;
  Accumulated sums;
  RETURN_IF_ERROR(Replay(batch, newest, admitted, sums));
  StepResult result;
  const absl::Status stepped = Caught(batch.step, [&]() -> absl::Status {
    RETURN_IF_ERROR(AddUp(ranks_, sums));
    result = {.step = batch.step,
              .batch_id = batch.id,
              .loss = sums.pass.loss,
              .tokens = sums.pass.rows,
              .loss_tokens = admitted.loss_tokens,
              .entropy = sums.pass.entropy_sum /
                         static_cast<double>(std::max<int64_t>(1, admitted.loss_tokens)),
              .mismatch = sums.mismatch.Buckets(),
              .distilled = sums.pass.distilled,
              .rejected = std::move(admitted.rejected),
              .phases = {{"forward", sums.pass.forward_seconds},
                         {"backward", sums.pass.backward_seconds}}};
    if (!batch.rl.empty()) result.ratio = StatsOf(sums.objective);
    if (!batch.rl.empty() && reference_ != nullptr) {
      result.reference_kl = sums.objective.reference_kl /
                            static_cast<double>(std::max<int64_t>(1, admitted.loss_tokens));
      result.phases.emplace_back("reference", sums.reference_seconds);
    }
    if (!sums.gaps.empty()) {
      result.views = rl::Report(sums.gaps, options_.shadow.bin);
      result.phases.emplace_back("other_view", sums.pass.other_view_seconds);
      if (ranks_.rank() == 0) WarnOfViews(options_.shadow.gates, *result.views, batch.step);
    }
    return TakeStep(batch, result);
  });
  if (!stepped.ok()) {
    ranks_.Fail(stepped);  // the others have gone on without us
    return stepped;
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> peaks, OneOfAll(ranks_, PeakMemory()));
  result.peak_bytes = *std::max_element(peaks.begin(), peaks.end());
  replayed_ = sums.replayed.Of(batch.rl);
  return result;
}

absl::Status TrainerEngine::Sound() const {
  const int64_t skipped = ledger_.NotFiniteInARow();
  if (options_.max_skipped_in_a_row > 0 && skipped >= options_.max_skipped_in_a_row) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the last %d steps, up to step %d, had a loss or gradient that was not finite: no more is "
        "taken (trainer.max_skipped_in_a_row=%d)",
        skipped, step(), options_.max_skipped_in_a_row));
  }
  return CheckViews(options_.shadow.gates, ledger_);
}

absl::StatusOr<TrainOutcome> TrainerEngine::Train(const Batch& batch) {
  RETURN_IF_ERROR(Validate(batch));
  ASSIGN_OR_RETURN(std::optional<StepResult> known, ledger_.Find(batch.step, batch.id));
  if (known) {
    const bool latest = batch.step == step();
    return TrainOutcome{*std::move(known), true, latest ? replayed_ : std::vector<rl::Replayed>()};
  }
  RETURN_IF_ERROR(Sound());
  const PhaseScope scope(phase_, Phase::kReplay);
  absl::StatusOr<StepResult> result = Learn(batch);
  if (!result.ok()) {
    shards_.DropGradients();
    return result.status();
  }
  ledger_.Add(*result);
  return TrainOutcome{*std::move(result), false, replayed_};
}

absl::Status TrainerEngine::BeginWrite() {
  const auto copy = [&]() -> absl::StatusOr<CheckpointPart> {
    CheckpointPart part;
    RETURN_IF_ERROR(shards_.WhileWhole([&] {
      return Caught(step(), [&] {
        part = CopyToSave(model_, optimizer_, ranks_.rank(), ranks_.size());
        return absl::OkStatus();
      });
    }));
    return part;
  };
  return writer_.Begin({.updates = optimizer_.updates(), .ledger = ledger_}, copy);
}

absl::Status TrainerEngine::BeginSave() {
  const PhaseScope scope(phase_, Phase::kCheckpoint);
  return BeginWrite();
}

absl::Status TrainerEngine::Save() {
  const PhaseScope scope(phase_, Phase::kCheckpoint);
  RETURN_IF_ERROR(writer_.Look());
  if (durable_step() == step() && step() > 0) return absl::OkStatus();
  RETURN_IF_ERROR(BeginWrite());
  return writer_.Wait();
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
  RETURN_IF_ERROR(writer_.Meet());
  absl::StatusOr<PolicyVersion> written = absl::FailedPreconditionError(
      absl::StrFormat("rank %d publishes nothing: rank 0 does", ranks_.rank()));
  RETURN_IF_ERROR(shards_.WhileWhole([&] {
    if (store_ == nullptr) return absl::OkStatus();
    written = store_->Publish(
        step(), [&](const std::string& folder) { return SaveVersion(model_, folder); });
    return absl::OkStatus();
  }));
  ASSIGN_OR_RETURN(const PolicyVersion version, written);
  if (const auto deleted = store_->CollectGarbage(); !deleted.ok()) {
    Log(Severity::kWarning, "old versions stay", {{"why", deleted.status().ToString()}});
  }
  ASSIGN_OR_RETURN(const std::vector<PublishedVersion> published, Published());
  for (const PublishedVersion& p : published) {
    if (p.version == version) return p;
  }
  // Somebody has deleted it already. Who asks again gets another one.
  return absl::UnavailableError(
      absl::StrFormat("version %d vanished from the store", version.value()));
}

}  // namespace palimpsest::trainer
