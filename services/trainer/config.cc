#include "services/trainer/config.h"

#include <filesystem>

#include "absl/strings/str_format.h"
#include "common/rpc/server.h"

// Binds stand in the namespace of their struct.
namespace palimpsest::rl {

void Bind(Binder& b, PolicyLossOptions& c) {
  b.Field("clip_low", c.clip_low, "ratios below 1 - clip_low push no further; [0, 1)");
  b.Field("clip_high", c.clip_high, "ratios above 1 + clip_high push no further");
  b.Field("truncate_ratio", c.truncate_ratio, "cap of the importance ratio, >= 1 + clip_high");
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
  b.Field("weight_decay", c.weight_decay, "decoupled; of tensors with two dimensions or more");
  b.Field("clip_norm", c.clip_norm, "largest L2 norm of all gradients together");
}

void Bind(Binder& b, Schedule& c) {
  b.Field("learning_rate", c.learning_rate, "after the warm-up; a batch may bring its own");
  b.Field("warmup_steps", c.warmup_steps, "linear from 0");
  b.Field("final_learning_rate", c.final_learning_rate, "at decay_steps");
  b.Field("decay_steps", c.decay_steps, "step at which the decay ends; 0: constant");
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
         "of the weights");
  b.Field("threads", e.threads, "of the math");
  b.Field("max_tokens_per_micro_batch", e.max_tokens_per_micro_batch,
          "rows of one forward pass; a group's prompt counts once");
  b.Section("loss", e.loss, "of the policy");
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
  b.Field("checkpoint_every", c.checkpoint_every, "steps; 0: only when asked and at the end");
  b.Field("keep_checkpoints", e.keep_checkpoints, "the newest ones");
  b.Field("keep_versions", e.keep_versions, "of the weights store, whatever its readers hold");
}

void Bind(Binder& b, DaemonConfig& c) {
  b.Section("run", c.run, "shared by all daemons");
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
  RETURN_IF_ERROR(GlooOptionsOf(c).status());
  RETURN_IF_ERROR(Validate(EngineOptionsOf(c)));
  return CheckModelFolder(c);
}

absl::StatusOr<GlooOptions> GlooOptionsOf(const DaemonConfig& c) {
  const TrainerSection& t = c.trainer;
  ASSIGN_OR_RETURN(const Listening at, ReadListen("trainer", t.serve));
  const std::string host = AdvertisedHost(at.rpc);
  if (t.ranks > 1 && !IsLoopback(host) && !at.rpc.insecure) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "trainer.advertise=%s: ranks speak to one another there and nothing is encrypted; set "
        "trainer.insecure: true on a network you trust",
        host));
  }
  return GlooOptions{.folder = c.run.folder + "/ranks",
                     .rank = t.rank,
                     .size = t.ranks,
                     .host = host,
                     .timeout = t.collective_timeout};
}

EngineOptions EngineOptionsOf(const DaemonConfig& c) {
  EngineOptions options = c.trainer.engine;
  options.run = c.run;
  options.model = c.model;
  return options;
}

}  // namespace palimpsest::trainer
