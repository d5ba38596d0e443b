#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/field.h"
#include "services/inference/http/ask_fields.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

// A word of common/context/types.h; nothing when it is absent or no such word.
template <class T>
std::optional<T> Word(Fields& fields, std::string_view name,
                      absl::StatusOr<T> (*from_name)(std::string_view)) {
  const std::optional<std::string> text = fields.Text(name);
  if (!text) return std::nullopt;
  const absl::StatusOr<T> word = from_name(*text);
  if (word.ok()) return *word;
  fields.Keep(wire::About(fields.Path(name), word.status()));
  return std::nullopt;
}

void ReadParameters(Fields& fields, v1::CompactionParameters& parameters) {
  if (const auto v = fields.Number("mu")) parameters.set_mu(*v);
  if (const auto v = fields.Number("lambda")) parameters.set_lambda(*v);
  if (const auto v = fields.Number("log_lower")) parameters.set_log_lower(*v);
  if (const auto v = fields.Number("log_upper")) parameters.set_log_upper(*v);
  if (const auto v = fields.Unsigned("seed")) parameters.set_seed(*v);
  if (const auto v = fields.Whole("holdout_every")) parameters.set_holdout_every(*v);
  if (const auto v = Word(fields, "chooser", context::ChooserFromName)) {
    parameters.set_chooser(wire::ToProto(*v));
  }
  if (const auto v = Word(fields, "reference_kind", context::ReferenceKindFromName)) {
    parameters.set_reference_kind(wire::ToProto(*v));
  }
}

// "prompt", or a count of first tokens.
void ReadProtect(Fields& fields, v1::ContextPolicy& policy) {
  const json* const value = fields.Any("protect");
  if (value == nullptr || *value == "prompt") return;
  if (value->is_number_unsigned() && value->get<uint64_t>() <= INT32_MAX) {
    policy.set_protect(value->get<int32_t>());
  } else {
    fields.RefuseValue(fields.Path("protect"), *value, "\"prompt\" or a count of tokens");
  }
}

template <class Trigger>
void ReadWindow(Fields& fields, Trigger& trigger) {
  trigger.set_window(fields.Whole("window").value_or(0));
  if (const auto v = fields.Number("keep_ratio")) trigger.set_keep_ratio(*v);
}

}  // namespace

bool ReadContext(const json& value, Fields& body, v1::ContextPolicy& policy) {
  Fields fields(value, "context");
  const std::string kind = fields.Text("kind").value_or("");
  if (kind == "kv_budget") {
    policy.mutable_kv_budget()->set_budget(fields.Whole("budget").value_or(0));
    ReadWindow(fields, *policy.mutable_kv_budget());
    if (const auto v = fields.Number("early")) policy.mutable_kv_budget()->set_early(*v);
  } else if (kind == "segments") {
    policy.mutable_segments()->set_every(fields.Whole("every").value_or(0));
    ReadWindow(fields, *policy.mutable_segments());
  } else if (kind != "none") {
    fields.Refuse("kind", absl::StrFormat("\"%s\" is none of none, kv_budget, segments", kind));
  }
  if (policy.trigger_case() != v1::ContextPolicy::TRIGGER_NOT_SET) {
    if (const auto v = Word(fields, "method", context::MethodFromName)) {
      policy.set_method(wire::ToProto(*v));
    }
    ReadParameters(fields, *policy.mutable_parameters());
    ReadProtect(fields, policy);
    if (const auto v = fields.Whole("reference_tokens")) policy.set_reference_tokens(*v);
    policy.set_after_window(fields.Flag("after_window").value_or(false));
    policy.set_stack(fields.Flag("stack").value_or(false));
  }
  body.Keep(fields.Finish());
  return kind != "none";
}

}  // namespace palimpsest::inference
