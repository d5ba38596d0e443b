#include "services/orchestrator/web/json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/context/state.h"
#include "services/orchestrator/engine/transcript.h"

namespace palimpsest::orchestrator {
namespace {

using nlohmann::json;

constexpr size_t kListedText = 240;  // bytes

json Maybe(const std::optional<double>& value) {
  return value.has_value() && std::isfinite(*value) ? json(*value) : json(nullptr);
}

json RangeJson(context::Range range) { return json::array({range.begin, range.end}); }

// Steps of one curve that are shown as one point.
class Bin {
 public:
  void Add(const StepRow& row) {
    ++n_;
    step_ = row.step;
    Sum("loss", row.loss);
    Sum("reward", row.reward);
    Sum("events", row.events);
    Sum("tokens", row.mean_total_tokens);
    Sum("mismatch_kl", row.mismatch_kl);
    Sum("generate_seconds", row.generate_seconds);
    Sum("train_seconds", row.train_seconds);
    sampled_ += static_cast<double>(row.sampled_tokens);
    generate_ += row.generate_seconds;
    staleness_ = std::max(staleness_, row.staleness_max);
    if (row.mismatch_max_abs.has_value()) {
      worst_ = std::max(worst_.value_or(0), *row.mismatch_max_abs);
    }
  }
  int64_t size() const { return n_; }
  json Point(const std::string& stage) const {
    json point = {{"step", step_}, {"stage", stage}};
    for (const auto& [name, sum] : sums_) {
      point[name] = sum.n > 0 ? Maybe(sum.total / sum.n) : json(nullptr);
    }
    const bool sampled = sampled_ > 0 && generate_ > 0;
    point["tokens_per_second"] = sampled ? json(sampled_ / generate_) : json(nullptr);
    point["staleness_max"] = staleness_;
    point["mismatch_max_abs"] = Maybe(worst_);
    return point;
  }

 private:
  struct Mean {
    double total = 0;
    int n = 0;
  };
  void Sum(const std::string& name, const std::optional<double>& value) {
    Mean& mean = sums_[name];
    if (!value.has_value()) return;
    mean.total += *value;
    ++mean.n;
  }

  int64_t n_ = 0, step_ = 0, staleness_ = 0;
  double sampled_ = 0, generate_ = 0;
  std::optional<double> worst_;
  std::map<std::string, Mean> sums_;
};

// "first" is before RL, "step-12" after its 12th step, "last" at its end.
json StepOf(const std::string& evaluation, int64_t rl_steps) {
  int64_t step = 0;
  if (evaluation == "first") return 0;
  if (evaluation == "last") return rl_steps;
  if (evaluation.starts_with("step-") && absl::SimpleAtoi(evaluation.substr(5), &step)) return step;
  return nullptr;
}

json QualityJson(const context::Quality& quality) {
  return {{"mass_error", Maybe(quality.mass_error)},
          {"output_error", Maybe(quality.output_error)},
          {"kkt_residual", Maybe(quality.kkt_residual)},
          {"holdout_mass_error", Maybe(quality.holdout_mass_error)},
          {"holdout_output_error", Maybe(quality.holdout_output_error)}};
}

json EventJson(const context::Event& event) {
  const context::Shape shape = event.kept.shape();
  std::vector<int32_t> heads(static_cast<size_t>(std::max(0, event.window.size())));
  size_t least = SIZE_MAX, most = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (int head = 0; head < shape.kv_heads; ++head) {
      const std::span<const int32_t> kept = event.kept.at(layer, head);
      for (const int32_t position : kept)
        ++heads[static_cast<size_t>(position - event.window.begin)];
      least = std::min(least, kept.size());
      most = std::max(most, kept.size());
    }
  }
  const context::Parameters& p = event.parameters;
  return {{"at", event.at},
          {"window", RangeJson(event.window)},
          {"reference", RangeJson(event.reference)},
          {"method", context::Name(event.method)},
          {"chooser", context::Name(p.chooser)},
          {"reference_kind", context::Name(p.reference_kind)},
          {"mu", p.mu},
          {"lambda", p.lambda},
          {"quality", QualityJson(event.quality)},
          {"seconds", Maybe(event.seconds)},
          {"kept_least", std::min(least, most)},
          {"kept_most", most},
          {"kept_heads", heads}};
}

// One letter a token: prompt, sampled, injected.
std::string Origins(const rl::Rollout& rollout) {
  std::string letters;
  for (const rl::Origin origin : rollout.origins) {
    letters += origin == rl::Origin::kPrompt ? 'p' : origin == rl::Origin::kSampled ? 's' : 'i';
  }
  return letters;
}

// By position; null where nothing was sampled.
json OfSampled(const rl::Rollout& rollout, std::span<const float> values) {
  json all = json::array();
  for (size_t i = 0; i < rollout.tokens.size(); ++i) {
    const bool sampled = rollout.origins[i] == rl::Origin::kSampled;
    all.push_back(sampled ? Maybe(values[i]) : json(nullptr));
  }
  return all;
}

std::string_view Name(rl::Outcome outcome) {
  constexpr std::string_view kNames[] = {"unknown",     "ok",           "truncated",
                                         "task_failed", "infra_failed", "cancelled"};
  const auto place = static_cast<size_t>(outcome);
  return place < std::size(kNames) ? kNames[place] : kNames[0];
}

std::string_view Name(rl::FinishReason reason) {
  constexpr std::string_view kNames[] = {"unknown",   "stop",     "length",
                                         "cancelled", "deadline", "failed"};
  const auto place = static_cast<size_t>(reason);
  return place < std::size(kNames) ? kNames[place] : kNames[0];
}

std::string_view Name(Split split) {
  return split == Split::kTrain ? "train" : split == Split::kSft ? "sft" : "heldout";
}

}  // namespace

json ProgressJson(const Progress& p, const std::string& phase, bool live) {
  json outcomes = json::object(), phases = json::object(), heldout = json::array();
  for (const auto& [outcome, n] : p.outcomes) outcomes[std::string(Name(outcome))] = n;
  for (const auto& [name, seconds] : p.step_phases) phases[name] = Maybe(seconds);
  return {{"run", p.run},
          {"live", live},
          {"phase", phase},
          {"stage", p.stage},
          {"attempt", p.attempt},
          {"step", p.step},
          {"total_steps", p.total_steps},
          {"reward", Maybe(p.reward)},
          {"tokens_per_second", Maybe(p.tokens_per_second)},
          {"events_per_rollout", Maybe(p.events_per_rollout)},
          {"mean_total_tokens", Maybe(p.mean_total_tokens)},
          {"staleness_max", p.staleness_max},
          {"mismatch_kl", Maybe(p.mismatch_kl)},
          {"mismatch_max_abs", Maybe(p.mismatch_max_abs)},
          {"policy_version", p.policy_version},
          {"outcomes", std::move(outcomes)},
          {"elapsed_seconds", Maybe(p.elapsed_seconds)},
          {"left_seconds", Maybe(p.left_seconds)},
          {"step_phases", std::move(phases)},
          {"failure", p.failure}};
}

json CurvesJson(const std::vector<StepRow>& steps, const std::vector<EvaluationMean>& heldout,
                int32_t points) {
  const auto stride = static_cast<int64_t>(steps.size()) / points + 1;
  json curve = json::array();
  int64_t rl_steps = 0;
  Bin bin;
  for (size_t i = 0; i < steps.size(); ++i) {
    bin.Add(steps[i]);
    rl_steps += steps[i].reward.has_value();
    const bool ends = i + 1 == steps.size() || steps[i + 1].stage != steps[i].stage;
    if (!ends && bin.size() < stride) continue;
    json point = bin.Point(steps[i].stage);
    point["rl_step"] = steps[i].reward.has_value() ? json(rl_steps) : json(nullptr);
    curve.push_back(std::move(point));
    bin = {};
  }
  json means = json::array();
  for (const EvaluationMean& mean : heldout) {
    means.push_back({{"name", mean.name},
                     {"greedy", mean.greedy},
                     {"reward", Maybe(mean.reward)},
                     {"prompts", mean.prompts},
                     {"unjudged", mean.unjudged},
                     {"rl_step", StepOf(mean.name, rl_steps)}});
  }
  return {{"steps", std::move(curve)}, {"stride", stride}, {"heldout", std::move(means)}};
}

json FleetJson(const std::vector<PeerFacts>& peers, const std::vector<StageRow>& stages,
               const std::vector<Weights>& versions) {
  json members = json::array(), past = json::array();
  for (const PeerFacts& peer : peers) {
    members.push_back({{"role", peer.role},
                       {"rank", peer.rank},
                       {"address", peer.address},
                       {"ready", peer.ready},
                       {"last_error", peer.last_error}});
  }
  for (const StageRow& stage : stages) {
    past.push_back({{"name", stage.name},
                    {"first_step", stage.first_step},
                    {"last_step", stage.last_step.has_value() ? json(*stage.last_step) : json()}});
  }
  json newest = nullptr;
  if (!versions.empty()) {
    newest = {{"version", versions.back().version.value()}, {"step", versions.back().step}};
  }
  return {{"peers", std::move(members)},
          {"stages", std::move(past)},
          {"versions", versions.size()},
          {"newest", std::move(newest)}};
}

json RowJson(const RolloutRow& row) {
  return {{"id", row.id},
          {"group", row.group},
          {"sample", row.sample},
          {"task", row.episode.task},
          {"split", Name(row.episode.split)},
          {"index", row.episode.index},
          {"outcome", Name(row.outcome)},
          {"reward", Maybe(row.reward)},
          {"advantage", Maybe(row.advantage)},
          {"reason", row.reason},
          {"text", row.text.substr(0, kListedText)},
          {"step", row.step.has_value() ? json(*row.step) : json(nullptr)},
          {"prompt_tokens", row.prompt_tokens},
          {"total_tokens", row.total_tokens},
          {"turns", row.turns},
          {"events", row.events},
          {"min_version", row.min_version},
          {"max_version", row.max_version},
          {"accepted_unix_ms", row.accepted_unix_ms}};
}

json RolloutJson(const RolloutRow& row, const rl::Rollout& rollout,
                 const std::vector<std::string>& pieces, std::span<const float> replayed,
                 const std::optional<StepRow>& trained) {
  json page = RowJson(row);
  json spans = json::array(), events = json::array(), texts = json::array();
  for (const rl::Span& span : rollout.spans) {
    spans.push_back({{"begin", span.begin},
                     {"end", span.end},
                     {"version", span.version.value()},
                     {"kv_epoch", span.kv_epoch}});
  }
  for (const context::Event& event : rollout.events) events.push_back(EventJson(event));
  for (const std::string& piece : pieces) texts.push_back(Printable(piece));
  const context::Shape shape =
      rollout.events.empty() ? context::Shape{} : rollout.events.front().kept.shape();
  page["layers"] = shape.layers;
  page["kv_heads"] = shape.kv_heads;
  page["ids"] = rollout.tokens;
  page["pieces"] = std::move(texts);
  page["origins"] = Origins(rollout);
  page["logprobs"] = OfSampled(rollout, rollout.logprobs);
  page["parts"] = row.parts;
  page["replayed"] = replayed.empty() ? json(nullptr) : OfSampled(rollout, replayed);
  page["spans"] = std::move(spans);
  page["events_list"] = std::move(events);
  page["temperature"] = rollout.temperature;
  page["greedy"] = rollout.greedy;
  page["seed"] = std::to_string(rollout.seed);  // may be more than a JavaScript number holds
  page["batch_mismatch"] = nullptr;
  if (trained.has_value()) {
    page["batch_mismatch"] = {{"kl", Maybe(trained->mismatch_kl)},
                              {"max_abs", Maybe(trained->mismatch_max_abs)}};
  }
  page["finish_reason"] = Name(rollout.finish_reason);
  page["seconds"] = Maybe(rollout.seconds);
  return page;
}

json KeptJson(const rl::Rollout& rollout, size_t n) {
  const context::Event& event = rollout.events[n];
  const context::Shape shape = event.kept.shape();
  context::ContextState state(shape);
  bool sound = true;
  for (size_t e = 0; e <= n && sound; ++e) {
    state.Append(rollout.events[e].at - state.processed());
    if (e < n) sound = state.Apply(rollout.events[e]).ok();
  }
  json kept = json::array(), held = json::array();
  for (int layer = 0; layer < shape.layers; ++layer) {
    json kept_of = json::array(), held_of = json::array();
    for (int head = 0; head < shape.kv_heads; ++head) {
      const std::span<const int32_t> positions = event.kept.at(layer, head);
      kept_of.push_back(std::vector<int32_t>(positions.begin(), positions.end()));
      std::vector<int32_t> slots;
      state.AppendSlots(layer, head, event.window, slots);
      held_of.push_back(std::move(slots));
    }
    kept.push_back(std::move(kept_of));
    held.push_back(std::move(held_of));
  }
  return {{"window", RangeJson(event.window)},
          {"kept", std::move(kept)},
          {"held", sound ? std::move(held) : json(nullptr)}};
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace palimpsest::orchestrator
