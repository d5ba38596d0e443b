#include "services/trainer/config.h"

#include <filesystem>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/rpc/server.h"

// Binds stand in the namespace of their struct.
namespace palimpsest::rl {

void Bind(Binder& b, CorrectionOptions& c) {
  b.Enum("kind", c.kind,
         {{"none", CorrectionKind::kNone},
          {"tis", CorrectionKind::kTis},
          {"icepop", CorrectionKind::kIcePop},
          {"sequence_mask", CorrectionKind::kSequenceMask},
          {"geometric_mask", CorrectionKind::kGeometricMask},
          {"sparse_rl", CorrectionKind::kSparseRl}},
         "what is done about ratios that went astray");
  b.Field("lower", c.lower, "ratios below it do not count; of masks and sparse_rl only, [0, 1)");
  b.Field("upper", c.upper,
          "ratios above it are cut to it (tis, sparse_rl) or do not count (masks)");
}

void Bind(Binder& b, AggregationOptions& c) {
  b.Enum("kind", c.kind,
         {{"token_mean", Aggregation::kTokenMean},
          {"sequence_mean", Aggregation::kSequenceMean},
          {"constant", Aggregation::kConstant},
          {"length_weighted", Aggregation::kLengthWeighted}},
         "how losses of tokens become that of a batch");
  b.Field("divisor", c.divisor, "tokens that a sequence is divided by; of constant only");
  b.Field("power", c.power, "of length_weighted only: 0 is token_mean, 1 sequence_mean");
}

void Bind(Binder& b, KlOptions& c) {
  b.Enum("estimator", c.estimator,
         {{"k1", KlEstimator::kK1}, {"k2", KlEstimator::kK2}, {"k3", KlEstimator::kK3}},
         "of the KL at a token");
  b.Field("coefficient", c.coefficient, "0: no reference is held");
}

void Bind(Binder& b, ObjectiveOptions& c) {
  b.Enum("surrogate", c.surrogate.kind,
         {{"clipped", SurrogateKind::kClipped},
          {"gspo", SurrogateKind::kGspo},
          {"cispo", SurrogateKind::kCispo},
          {"ipo", SurrogateKind::kIpo},
          {"dppo", SurrogateKind::kDppo}},
         "what common/rl/README.md says makes which method");
  b.Field("clip_low", c.surrogate.clip_low,
          "ratios below 1 - clip_low push no further; of ipo and dppo: moves of probability");
  b.Field("clip_high", c.surrogate.clip_high, "the same above 1 + clip_high");
  b.Section("correction", c.correction, "sampler against trainer");
  b.Section("aggregation", c.aggregation, "of rollouts; demonstrations are a token mean");
  b.Section("reference_kl", c.reference_kl, "to trainer.reference_folder");
  b.Field("drift", c.drift, "coefficient of the squared log-ratio to the sampler");
  b.Field("entropy", c.entropy, "coefficient of an entropy bonus");
}

void Bind(Binder& b, DistillationOptions& c) {
  b.Enum("kind", c.kind,
         {{"none", Distillation::kNone},
          {"d1", Distillation::kD1},
          {"d2", Distillation::kD2},
          {"d3", Distillation::kD3}},
         "KL over the vocabulary: d1 (dense || sg shadow), d2 (sg dense || shadow), d3 (sg shadow "
         "|| dense)");
  b.Field("coefficient", c.coefficient, "of the KL of a token");
  b.Field("warmup_steps", c.warmup_steps, "of rollouts, until the coefficient is whole");
}

void Bind(Binder& b, ViewGates& c) {
  b.Field("acceptance_warn", c.acceptance_warn,
          "least 5th percentile of a bin's acceptance without a warning; 0: any");
  b.Field("acceptance_stop", c.acceptance_stop, "below it no more is learnt; 0: never");
  b.Field("kl_warn", c.kl_warn, "most nats a token, either way, without a warning; 0: any");
  b.Field("kl_stop", c.kl_stop, "above it no more is learnt; 0: never");
  b.Field("least_tokens", c.least_tokens, "of a bin that is judged");
}

void Bind(Binder& b, ViewOptions& c) {
  b.Enum("view", c.learner, {{"shadow", View::kShadow}, {"dense", View::kDense}},
         "what the loss is of: rollouts as their logs say, or without their events");
  b.Section("distillation", c.distillation, "of one view into the other");
  b.Field("measure_every", c.measure_every, "steps between comparisons of the views; 0: never");
  b.Field("bin", c.bin, "tokens of a response that are reported together");
  b.Section("gates", c.gates, "where the views are too far apart");
}

}  // namespace palimpsest::rl

namespace palimpsest::trainer {
namespace {

// Not whether it can be read; that costs time and is for the start.
bool HasCheckpoint(const RunSection& run) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(run.CheckpointFolder(), ignored)) {
    if (entry.path().filename().string().starts_with("step-")) return true;
  }
  return false;
}

// A run that has a checkpoint goes on without the folder that it began with.
absl::Status CheckModelFolder(const DaemonConfig& c) {
  std::error_code ignored;
  const std::string& folder = c.model.folder;
  if (folder.empty() || std::filesystem::is_directory(folder, ignored) || HasCheckpoint(c.run)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat("model.folder=%s is no folder", folder));
}

}  // namespace

void Bind(Binder& b, AdamOptions& c) {
  b.Field("beta1", c.beta1, "of the mean of the gradients");
  b.Field("beta2", c.beta2, "of the mean of their squares");
  b.Field("epsilon", c.epsilon, "added to the root of the second");
  b.Field("weight_decay", c.weight_decay, "decoupled");
  b.Enum("decay", c.decay,
         {{"matrices", DecayGroup::kMatrices},
          {"inner_matrices", DecayGroup::kInnerMatrices},
          {"all", DecayGroup::kAll}},
         "what it is of; inner: neither embedding nor head");
  b.Field("clip_norm", c.clip_norm, "largest L2 norm of all gradients together");
}

void Bind(Binder& b, Schedule& c) {
  b.Field("learning_rate", c.learning_rate, "after the warm-up; a batch may bring its own");
  b.Field("warmup_steps", c.warmup_steps, "linear from 0");
  b.Field("final_learning_rate", c.final_learning_rate, "at decay_steps");
  b.Field("decay_steps", c.decay_steps, "step at which the decay ends; 0: constant");
  b.Enum("decay", c.decay, {{"linear", Decay::kLinear}, {"cosine", Decay::kCosine}},
         "from learning_rate to final_learning_rate");
}

void Bind(Binder& b, TrainerSection& c) {
  EngineOptions& e = c.engine;
  BindListen(b, c.serve);
  b.Field("rank", c.rank, "of this process; palimpsest launch says it");
  b.Field("ranks", c.ranks, "processes that train together; palimpsest launch says it");
  b.Field("collective_timeout", c.collective_timeout, "of one wait for another rank");
  b.Field("max_queued", c.max_queued, "calls that wait while one is worked on");
  b.Enum("dtype", e.dtype,
         {{"float32", model::DType::kFloat32}, {"bfloat16", model::DType::kBFloat16}},
         "of the weights that compute and are published; bfloat16 has float32 masters");
  b.Enum("activations", e.activations,
         {{"kept", model::Activations::kKept}, {"recomputed", model::Activations::kRecomputed}},
         "of a layer until its backward pass; recomputed: a forward pass more, little memory");
  b.Enum("weights", e.weights, {{"whole", WeightsHeld::kWhole}, {"sharded", WeightsHeld::kSharded}},
         "that a rank holds between passes; sharded: its slices, gathered part by part in a pass");
  b.Field("threads", e.threads, "of the math");
  b.Field("max_tokens_per_micro_batch", e.max_tokens_per_micro_batch,
          "rows of one forward pass; a group's prompt counts once");
  b.Section("loss", e.loss, "of rollouts");
  b.Section("shadow", e.shadow, "rollouts with their events, and without");
  b.Field("reference_folder", e.reference_folder,
          "model of loss.reference_kl; empty: model.folder, that the run started from");
  b.Section("optimizer", e.optimizer, "AdamW");
  b.Section("schedule", e.schedule, "learning rate of batches that bring none");
  b.Enum("gradient", e.gradient,
         {{"full", compaction::GradientMode::kFull},
          {"straight_through", compaction::GradientMode::kStraightThrough},
          {"detached", compaction::GradientMode::kDetached}},
         "through compaction events");
  b.Field("take_truncated_sampling", e.take_truncated_sampling,
          "learn from rollouts whose draws top-k, top-p, penalties or bias changed");
  b.Field("take_greedy", e.take_greedy, "learn from rollouts sampled at temperature 0");
  b.Field("max_skipped_in_a_row", e.max_skipped_in_a_row,
          "steps that were not finite until no batch is taken; 0: never");
  b.Field("checkpoint_every", c.checkpoint_every, "steps; 0: only when asked and at the end");
  b.Field("keep_checkpoints", e.keep_checkpoints, "the newest whole ones");
  b.Field("keep_every", e.keep_every, "those of steps that are multiples of it stay, too; 0: none");
  b.Field("resume", e.resume,
          "step of the checkpoint to go on from, newer ones are set aside; -1: the newest whole");
  b.Field("keep_versions", e.keep_versions, "of the weights store, whatever its readers hold");
}

void Bind(Binder& b, DaemonConfig& c) {
  b.Section("run", c.run, "shared by all daemons");
  b.Section("tls", c.tls, "certificates of the run");
  b.Section("model", c.model, "that the run starts from");
  b.Section("trainer", c.trainer, "batches in, steps and versions out");
}

absl::Status Validate(const DaemonConfig& c) {
  const TrainerSection& t = c.trainer;
  if (t.checkpoint_every < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.checkpoint_every=%d is not >= 0", t.checkpoint_every));
  }
  if (t.max_queued < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.max_queued=%d is not >= 1", t.max_queued));
  }
  RETURN_IF_ERROR(Validate(c.tls, Role::kTrainer, SystemClock().Now()));
  if (t.ranks < 1) {
    return absl::InvalidArgumentError(absl::StrFormat("trainer.ranks=%d is not >= 1", t.ranks));
  }
  if (t.rank < 0 || t.rank >= t.ranks) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.rank=%d is not in [0, trainer.ranks=%d)", t.rank, t.ranks));
  }
  if (t.collective_timeout < absl::Seconds(1)) {
    return absl::InvalidArgumentError(absl::StrFormat("trainer.collective_timeout=%s is below 1s",
                                                      absl::FormatDuration(t.collective_timeout)));
  }
  RETURN_IF_ERROR(JoinOptionsOf(c).status());
  RETURN_IF_ERROR(Validate(EngineOptionsOf(c)));
  std::error_code ignored;
  const std::string& reference = c.trainer.engine.reference_folder;
  if (!reference.empty() && !std::filesystem::is_directory(reference, ignored)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.reference_folder=%s is no folder", reference));
  }
  const double near = c.trainer.engine.loss.reference_kl.coefficient;
  if (near > 0 && reference.empty() && c.model.folder.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "trainer.loss.reference_kl.coefficient=%g would hold the policy near to random weights: a "
        "run that starts without model.folder needs trainer.reference_folder",
        near));
  }
  return CheckModelFolder(c);
}

absl::StatusOr<JoinOptions> JoinOptionsOf(const DaemonConfig& c) {
  const TrainerSection& t = c.trainer;
  ASSIGN_OR_RETURN(const Listening at, ReadListen("trainer", t.serve, c.tls));
  const std::string host = AdvertisedHost(at.rpc);
  if (t.ranks > 1 && !IsLoopback(host) && !at.rpc.insecure && !c.tls.on()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.advertise=%s: ranks speak to one another there and nothing is "
                        "encrypted; give tls.folder, or set trainer.insecure: true on a network "
                        "that you trust",
                        host));
  }
  return JoinOptions{.folder = c.run.folder + "/ranks",
                     .rank = t.rank,
                     .size = t.ranks,
                     .host = host,
                     .tls = c.tls,
                     .timeout = t.collective_timeout};
}

EngineOptions EngineOptionsOf(const DaemonConfig& c) {
  EngineOptions options = c.trainer.engine;
  options.run = c.run;
  options.model = c.model;
  return options;
}

}  // namespace palimpsest::trainer
