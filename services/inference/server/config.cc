#include "services/inference/server/config.h"

#include "absl/strings/str_format.h"
#include "common/base/clock.h"

namespace palimpsest::inference {
namespace {

absl::Status AtLeast(const char* field, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("inference.%s=%d is below %d", field, value, least));
}

absl::Status AtLeast(const char* field, absl::Duration value, absl::Duration least) {
  if (value >= least && value <= absl::Hours(24 * 7)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("inference.%s=%s is outside of [%s, 168h]",
                                                    field, absl::FormatDuration(value),
                                                    absl::FormatDuration(least)));
}

}  // namespace

void Bind(Binder& b, InferenceConfig& c) {
  b.Field("rank", c.rank, "among the replicas of the run");
  BindListen(b, c.serve);
  b.Section("http", c.http, "the OpenAI-compatible door");
  b.Field("dtype", c.dtype, "float32 or bfloat16");
  b.Field("device", c.device, "cpu, or cuda: weights, KV pool, steps and events on a GPU");
  b.Field("threads", c.threads, "of the math");
  b.Field("batch_invariant", c.batch_invariant,
          "a request gives the same bits alone, among others and however its prompt is chunked");
  b.Field("max_running", c.limits.max_running, "sequences decoded together");
  b.Field("max_queued", c.limits.max_queued, "samples that wait; beyond it RESOURCE_EXHAUSTED");
  b.Field("max_samples", c.limits.max_samples, "n of one request");
  b.Bytes("kv_pool_bytes", c.limits.kv_pool_bytes, "slots and recorded queries, over all layers");
  b.Field("prefill_tokens", c.limits.prefill_tokens, "prompt rows of one step");
  b.Field("prefix_cache", c.limits.prefix_cache,
          "keep pages of prompts for others that begin alike");
  b.Field("max_sessions", c.limits.max_sessions, "open ones; 0 = this server has none");
  b.Field("session_ttl", c.limits.session_ttl, "idle time after which a session is deleted");
  b.Field("max_scores", c.max_scores, "Score calls at once; beyond it RESOURCE_EXHAUSTED");
  b.Field("reader_queue", c.reader_queue, "streamed messages that a slow reader may be behind");
  b.Field("remember", c.remember, "finished generations, for a repeated request_id");
  b.Bytes("remember_bytes", c.remember_bytes, "of them together");
  b.Field("store_poll", c.store_poll, "between two looks at the weights store");
  b.Field("lease", c.lease, "what this replica serves is kept in the store so long");
  b.Enum("weights_mode", c.weights_mode,
         {{"keep", WeightsMode::kKeep},
          {"recompute", WeightsMode::kRecompute},
          {"finish", WeightsMode::kFinish}},
         "what becomes of running sequences when polling finds new weights");
  b.Field("first_version_wait", c.first_version_wait,
          "for the first weights; then the daemon ends");
  b.Field("canary_limit", c.canary_limit,
          "nats by which canary prompts of a version may be off; beyond it readiness is false");
  b.Field("drain_grace", c.drain_grace, "for running sequences at SIGTERM");
}

absl::Status Validate(const InferenceConfig& c, const TlsSection& tls) {
  RETURN_IF_ERROR(AtLeast("rank", c.rank, 0));
  RETURN_IF_ERROR(ReadListen("inference", c.serve, tls).status());
  RETURN_IF_ERROR(Validate("inference", c.http, c.serve, tls));
  if (c.dtype != "float32" && c.dtype != "bfloat16") {
    return absl::InvalidArgumentError(
        absl::StrFormat("inference.dtype=%s is neither float32 nor bfloat16", c.dtype));
  }
  if (c.device != "cpu" && c.device != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrFormat("inference.device=%s is neither cpu nor cuda", c.device));
  }
  if (c.device == "cuda" && c.batch_invariant) {
    return absl::InvalidArgumentError(
        "inference.batch_invariant=true: sums on inference.device=cuda hang on the batch");
  }
  RETURN_IF_ERROR(AtLeast("threads", c.threads, 1));
  RETURN_IF_ERROR(AtLeast("max_running", c.limits.max_running, 1));
  RETURN_IF_ERROR(AtLeast("max_queued", c.limits.max_queued, 1));
  RETURN_IF_ERROR(AtLeast("max_samples", c.limits.max_samples, 1));
  RETURN_IF_ERROR(AtLeast("kv_pool_bytes", c.limits.kv_pool_bytes, 1));
  RETURN_IF_ERROR(AtLeast("prefill_tokens", c.limits.prefill_tokens, 1));
  RETURN_IF_ERROR(AtLeast("max_sessions", c.limits.max_sessions, 0));
  RETURN_IF_ERROR(AtLeast("session_ttl", c.limits.session_ttl, absl::Seconds(1)));
  RETURN_IF_ERROR(AtLeast("max_scores", c.max_scores, 1));
  RETURN_IF_ERROR(AtLeast("reader_queue", c.reader_queue, 1));
  RETURN_IF_ERROR(AtLeast("remember", c.remember, absl::ZeroDuration()));
  RETURN_IF_ERROR(AtLeast("remember_bytes", c.remember_bytes, 0));
  RETURN_IF_ERROR(AtLeast("store_poll", c.store_poll, absl::Milliseconds(10)));
  RETURN_IF_ERROR(AtLeast("lease", c.lease, absl::Seconds(1)));
  if (c.lease < 3 * c.store_poll) {
    return absl::InvalidArgumentError(
        absl::StrFormat("inference.lease=%s is below three times inference.store_poll=%s",
                        absl::FormatDuration(c.lease), absl::FormatDuration(c.store_poll)));
  }
  if (!(c.canary_limit > 0)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("inference.canary_limit=%g is not > 0", c.canary_limit));
  }
  RETURN_IF_ERROR(AtLeast("first_version_wait", c.first_version_wait, absl::Seconds(1)));
  return AtLeast("drain_grace", c.drain_grace, absl::ZeroDuration());
}

void Bind(Binder& b, InferenceDaemonConfig& c) {
  b.Section("run", c.run, "what all daemons of a run share");
  b.Section("tls", c.tls, "certificates of the run");
  b.Section("inference", c.inference, "one replica");
}

absl::Status Validate(const InferenceDaemonConfig& c) {
  RETURN_IF_ERROR(Validate(c.run));
  RETURN_IF_ERROR(Validate(c.tls, Role::kInference, SystemClock().Now()));
  return Validate(c.inference, c.tls);
}

}  // namespace palimpsest::inference
