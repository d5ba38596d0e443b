#include "common/config/run_sections.h"

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

absl::Status Positive(const char* field, int32_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("model.init.%s=%d is not > 0", field, value));
}

}  // namespace

void Bind(Binder& b, RunSection& c) {
  b.Field("name", c.name, "of the run, in all that it publishes");
  b.Field("folder", c.folder, "where the run keeps everything; shared by its daemons");
  b.Field("seed", c.seed, "all random streams of the run follow from it");
}

absl::Status Validate(const RunSection& c) {
  if (c.name.empty()) return absl::InvalidArgumentError("run.name is empty");
  if (c.folder.empty()) return absl::InvalidArgumentError("run.folder is empty");
  return absl::OkStatus();
}

void Bind(Binder& b, InitModel& c) {
  b.Field("layers", c.layers, "decoder layers");
  b.Field("hidden", c.hidden, "width of the residual stream");
  b.Field("intermediate", c.intermediate, "width of the MLP");
  b.Field("heads", c.heads, "query heads");
  b.Field("kv_heads", c.kv_heads, "key and value heads; divides heads");
  b.Field("head_dim", c.head_dim, "width of one head; even");
  b.Field("max_position", c.max_position, "most tokens of a sequence");
  b.Field("rope_theta", c.rope_theta, "base of the rotary frequencies");
  b.Field("tied", c.tied, "whether the output projection is the embedding");
  b.Field("special_tokens", c.special_tokens, "after the 256 bytes; the first one ends a text");
}

void Bind(Binder& b, ModelSection& c) {
  b.Field("folder", c.folder, "a Hugging Face folder to start from; empty: made from init");
  b.Section("init", c.init, "a fresh Qwen3 model with a byte-level tokenizer");
}

absl::Status Validate(const ModelSection& c) {
  if (!c.folder.empty()) return absl::OkStatus();
  const InitModel& m = c.init;
  RETURN_IF_ERROR(Positive("layers", m.layers));
  RETURN_IF_ERROR(Positive("hidden", m.hidden));
  RETURN_IF_ERROR(Positive("intermediate", m.intermediate));
  RETURN_IF_ERROR(Positive("heads", m.heads));
  RETURN_IF_ERROR(Positive("kv_heads", m.kv_heads));
  RETURN_IF_ERROR(Positive("head_dim", m.head_dim));
  RETURN_IF_ERROR(Positive("max_position", m.max_position));
  if (m.heads % m.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "model.init.kv_heads=%d does not divide model.init.heads=%d", m.kv_heads, m.heads));
  }
  if (m.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("model.init.head_dim=%d is not even", m.head_dim));
  }
  if (!(m.rope_theta > 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("model.init.rope_theta=%g is not > 1", m.rope_theta));
  }
  if (m.special_tokens.empty()) {
    return absl::InvalidArgumentError("model.init.special_tokens is empty: nothing ends a text");
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
