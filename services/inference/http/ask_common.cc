#include <charconv>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/inference/http/ask_fields.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

std::string Item(std::string_view path, size_t index) {
  return absl::StrFormat("%s[%d]", path, index);
}

void ReadDraws(Fields& body, uint64_t fresh_seed, v1::SamplingParams& sampling) {
  if (const auto v = body.Number("temperature")) sampling.set_temperature(*v);
  if (const auto v = body.Number("top_p")) sampling.set_top_p(*v);
  if (const auto v = body.Whole("top_k")) sampling.set_top_k(*v == -1 ? 0 : *v);  // both: off
  if (const auto v = body.Number("min_p")) sampling.set_min_p(*v);
  if (const auto v = body.Number("repetition_penalty")) sampling.set_repetition_penalty(*v);
  if (const auto v = body.Number("presence_penalty")) sampling.set_presence_penalty(*v);
  if (const auto v = body.Number("frequency_penalty")) sampling.set_frequency_penalty(*v);
  sampling.set_seed(body.Unsigned("seed").value_or(fresh_seed));
}

void ReadBias(Fields& body, v1::SamplingParams& sampling) {
  const json* const bias = body.Any("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return body.RefuseValue("logit_bias", *bias, "an object");
  for (const auto& item : bias->items()) {
    const std::string& key = item.key();
    int32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      return body.Refuse("logit_bias", absl::StrFormat("\"%s\" is not a token's id", key));
    }
    if (!item.value().is_number()) {
      return body.RefuseValue(absl::StrFormat("logit_bias.%s", key), item.value(), "a number");
    }
    (*sampling.mutable_logit_bias())[id] = item.value().get<float>();
  }
}

void ReadStops(Fields& body, v1::SamplingParams& sampling) {
  if (const json* const stop = body.Any("stop"); stop != nullptr && stop->is_string()) {
    sampling.add_stop_strings(stop->get<std::string>());
  } else if (stop != nullptr && stop->is_array()) {
    for (size_t i = 0; i < stop->size(); ++i) {
      const json& item = (*stop)[i];
      if (!item.is_string()) return body.RefuseValue(Item("stop", i), item, "a string");
      sampling.add_stop_strings(item.get<std::string>());
    }
  } else if (stop != nullptr) {
    return body.RefuseValue("stop", *stop, "a string or a list of strings");
  }
  if (const json* const ids = body.Any("stop_token_ids"); ids != nullptr) {
    if (!ids->is_array()) return body.RefuseValue("stop_token_ids", *ids, "a list of ids");
    for (size_t i = 0; i < ids->size(); ++i) {
      const json& id = (*ids)[i];
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
        return body.RefuseValue(Item("stop_token_ids", i), id, "a token's id");
      }
      sampling.add_stop_ids(id.get<int32_t>());
    }
  }
  if (const auto v = body.Whole("min_tokens")) sampling.set_min_tokens(*v);
  if (const auto v = body.Flag("ignore_eos")) sampling.set_ignore_eos(*v);
}

void ReadStreaming(Fields& body, Ask& ask) {
  ask.stream = body.Flag("stream").value_or(false);
  const json* const options = body.Any("stream_options");
  if (options == nullptr) return;
  if (!ask.stream) return body.Refuse("stream_options", "only with stream: true");
  Fields fields(*options, "stream_options");
  ask.include_usage = fields.Flag("include_usage").value_or(false);
  body.Keep(fields.Finish());
}

}  // namespace

void ReadCommon(Fields& body, uint64_t fresh_seed, Ask& ask, v1::GenerateRequest& request) {
  ask.model = body.Text("model").value_or("");
  request.set_client(body.Text("user").value_or(""));
  ask.n = body.Whole("n").value_or(1);
  if (ask.n < 1) body.Refuse("n", absl::StrFormat("%d is not at least 1", ask.n));
  request.set_n(ask.n);
  ReadDraws(body, fresh_seed, *request.mutable_sampling());
  ReadBias(body, *request.mutable_sampling());
  ReadStops(body, *request.mutable_sampling());
  ReadStreaming(body, ask);
  if (const json* const context = body.Any("context"); context != nullptr) {
    ask.compacts = ReadContext(*context, body, *request.mutable_context());
  }
}

}  // namespace palimpsest::inference
