#include <nlohmann/json.hpp>

#include "tools/eval/report.h"

namespace palimpsest::tools::eval {
namespace {

using json = nlohmann::ordered_json;

json Json(const std::optional<Estimate>& e) {
  if (!e) return nullptr;
  return {{"value", e->value}, {"interval", {e->low, e->high}}, {"prompts", e->prompts}};
}

json Json(const Scores& scores) {
  json value = {{"prompts", scores.prompts},
                {"answers", scores.answers},
                {"pass@1", Json(scores.pass_1)},
                {"reward", Json(scores.avg)}};
  for (const auto& [k, estimate] : scores.pass_k) {
    value["pass@" + std::to_string(k)] = Json(std::optional(estimate));
  }
  for (const auto& [name, estimate] : scores.parts) {
    value["parts"][name] = Json(std::optional(estimate));
  }
  return value;
}

json Json(const std::vector<Group>& groups) {
  json value = json::object();
  for (const Group& group : groups) value[group.name] = Json(group.scores);
  return value;
}

json Json(const Cost& cost) {
  return {{"responses", cost.responses},    {"prompt_tokens", cost.prompt_tokens},
          {"tokens", cost.tokens},          {"events", cost.events},
          {"mean_slots", cost.mean_slots},  {"peak_slots", cost.peak_slots},
          {"mean_kv_bytes", cost.kv_bytes}, {"seconds", cost.seconds},
          {"ended_by_length", cost.cut}};
}

json Json(const Paired& paired) {
  return {{"pass@1", Json(paired.pass_1)},
          {"reward", Json(paired.avg)},
          {"sign_test",
           {{"better", paired.signs.better},
            {"worse", paired.signs.worse},
            {"equal", paired.signs.equal},
            {"p", paired.signs.p}}}};
}

json Json(const PolicySummary& policy) {
  json value = {{"name", policy.name},           {"settings", policy.text},
                {"missing", policy.missing},     {"all", Json(policy.all)},
                {"tasks", Json(policy.tasks)},   {"tags", Json(policy.tags)},
                {"events", Json(policy.events)}, {"cost", Json(policy.cost)}};
  if (policy.paired) value["minus_first"] = Json(*policy.paired);
  return value;
}

json Json(const Plan& plan) {
  json tasks = json::object();
  for (const TaskShare& task : plan.tasks) tasks[task.name] = task.prompts;
  return {
      {"tasks", tasks},          {"split", plan.split},           {"seed", plan.seed},
      {"samples", plan.samples}, {"max_tokens", plan.max_tokens}, {"temperature", plan.temperature},
      {"right_from", plan.right}};
}

}  // namespace

std::string ReportJson(const Summary& summary, const std::string& command) {
  const ModelFacts& model = summary.model;
  json value = {{"command", command},
                {"plan", Json(summary.plan)},
                {"model",
                 {{"architecture", model.architecture},
                  {"layers", model.layers},
                  {"hidden", model.hidden},
                  {"kv_heads", model.kv_heads},
                  {"head_dim", model.head_dim},
                  {"dtype", model.dtype},
                  {"policy_version", model.policy_version},
                  {"run", model.run},
                  {"slot_bytes", SlotBytes(model)}}},
                {"intervals", "95 %, bootstrap over prompts within their task"},
                {"resamples", kResamples}};
  json& policies = value["policies"] = json::array();
  for (const PolicySummary& policy : summary.policies) policies.push_back(Json(policy));
  json& missing = value["missing"] = json::array();
  for (const Missing& one : summary.missing) {
    missing.push_back({{"answer", Text(one.key)}, {"why", one.why}});
  }
  return value.dump(1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace) + "\n";
}

}  // namespace palimpsest::tools::eval
