#include "services/trainer/engine/checkpoint_state.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace palimpsest::trainer {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;

Json JsonOf(const rl::ViewReport& v) {
  Json json = {{"tokens", v.tokens},
               {"acceptance", v.acceptance},
               {"dense_shadow", v.dense_shadow},
               {"shadow_dense", v.shadow_dense},
               {"dense_shadow_p99", v.dense_shadow_p99},
               {"shadow_dense_p99", v.shadow_dense_p99},
               {"bins", Json::array()}};
  for (const rl::ViewBin& bin : v.bins) {
    json["bins"].push_back({{"begin", bin.begin},
                            {"end", bin.end},
                            {"tokens", bin.tokens},
                            {"acceptance_p5", bin.acceptance_p5}});
  }
  return json;
}

Json JsonOf(const StepResult& r) {
  Json json = {{"step", r.step},
               {"batch_id", r.batch_id},
               {"loss", r.loss},
               {"grad_norm", r.grad_norm},
               {"learning_rate", r.learning_rate},
               {"tokens", r.tokens},
               {"loss_tokens", r.loss_tokens},
               {"entropy", r.entropy},
               {"skipped", r.skipped},
               {"peak_bytes", r.peak_bytes},
               {"mismatch", Json::array()},
               {"rejected", Json::array()},
               {"phases", Json::array()}};
  for (const MismatchBucket& m : r.mismatch) {
    json["mismatch"].push_back({{"events", m.events},
                                {"tokens", m.tokens},
                                {"kl", m.kl},
                                {"mean_abs", m.mean_abs},
                                {"max_abs", m.max_abs}});
  }
  for (const Rejected& x : r.rejected) {
    json["rejected"].push_back(
        {{"id", x.id}, {"reason", static_cast<int>(x.reason)}, {"message", x.message}});
  }
  for (const auto& [phase, seconds] : r.phases) {
    json["phases"].push_back({{"phase", phase}, {"seconds", seconds}});
  }
  if (r.ratio) {
    json["ratio"] = {{"mean", r.ratio->mean},
                     {"max", r.ratio->max},
                     {"clip_share", r.ratio->clip_share},
                     {"truncated_share", r.ratio->truncated_share},
                     {"effective_sample_size", r.ratio->effective_sample_size},
                     {"masked_share", r.ratio->masked_share}};
  }
  if (r.reference_kl) json["reference_kl"] = *r.reference_kl;
  if (r.distilled != 0) json["distilled"] = r.distilled;
  if (r.views) json["views"] = JsonOf(*r.views);
  return json;
}

// Takes fields out of an object and remembers whether all were there and of their kind.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json), good_(json.is_object()) {}

  void Take(const char* key, int64_t& value) {
    if (const Json* found = Find(key); found && found->is_number_integer()) {
      value = found->get<int64_t>();
    } else {
      good_ = false;
    }
  }
  void Take(const char* key, int32_t& value) {
    int64_t wide = value;
    Take(key, wide);
    value = static_cast<int32_t>(wide);
  }
  // null stands for what JSON cannot write: a number that is not finite.
  void Take(const char* key, double& value) {
    const Json* found = Find(key);
    if (found && found->is_number()) {
      value = found->get<double>();
    } else if (found && found->is_null()) {
      value = std::numeric_limits<double>::quiet_NaN();
    } else {
      good_ = false;
    }
  }
  void Take(const char* key, bool& value) {
    if (const Json* found = Find(key); found && found->is_boolean()) {
      value = found->get<bool>();
    } else {
      good_ = false;
    }
  }
  void Take(const char* key, std::string& value) {
    if (const Json* found = Find(key); found && found->is_string()) {
      value = found->get<std::string>();
    } else {
      good_ = false;
    }
  }
  template <class Each>
  void List(const char* key, Each&& each) {
    const Json* found = Find(key);
    good_ = good_ && found && found->is_array();
    if (!good_) return;
    for (const Json& item : *found) {
      Fields fields(item);
      each(fields);
      good_ = good_ && fields.good();
    }
  }
  const Json* Find(const char* key) const {
    if (!json_.is_object()) return nullptr;
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }
  bool good() const { return good_; }
  void Fail() { good_ = false; }

 private:
  const Json& json_;
  bool good_;
};

void TakeLists(Fields& f, StepResult& r) {
  f.List("mismatch", [&](Fields& m) {
    MismatchBucket bucket;
    m.Take("events", bucket.events);
    m.Take("tokens", bucket.tokens);
    m.Take("kl", bucket.kl);
    m.Take("mean_abs", bucket.mean_abs);
    m.Take("max_abs", bucket.max_abs);
    r.mismatch.push_back(bucket);
  });
  f.List("rejected", [&](Fields& x) {
    Rejected rejected;
    int64_t reason = 0;
    x.Take("id", rejected.id);
    x.Take("reason", reason);
    x.Take("message", rejected.message);
    if (reason < 1 || reason > static_cast<int64_t>(RejectReason::kTooLong)) x.Fail();
    rejected.reason = static_cast<RejectReason>(reason);
    r.rejected.push_back(std::move(rejected));
  });
  f.List("phases", [&](Fields& p) {
    std::pair<std::string, double> phase;
    p.Take("phase", phase.first);
    p.Take("seconds", phase.second);
    r.phases.push_back(std::move(phase));
  });
}

rl::ViewReport TakeViews(Fields& f) {
  rl::ViewReport v;
  f.Take("tokens", v.tokens);
  f.Take("acceptance", v.acceptance);
  f.Take("dense_shadow", v.dense_shadow);
  f.Take("shadow_dense", v.shadow_dense);
  f.Take("dense_shadow_p99", v.dense_shadow_p99);
  f.Take("shadow_dense_p99", v.shadow_dense_p99);
  f.List("bins", [&](Fields& b) {
    rl::ViewBin bin;
    b.Take("begin", bin.begin);
    b.Take("end", bin.end);
    b.Take("tokens", bin.tokens);
    b.Take("acceptance_p5", bin.acceptance_p5);
    v.bins.push_back(bin);
  });
  return v;
}

StepResult TakeResult(Fields& f) {
  StepResult r;
  f.Take("step", r.step);
  f.Take("batch_id", r.batch_id);
  f.Take("loss", r.loss);
  f.Take("grad_norm", r.grad_norm);
  f.Take("learning_rate", r.learning_rate);
  f.Take("tokens", r.tokens);
  f.Take("loss_tokens", r.loss_tokens);
  f.Take("entropy", r.entropy);
  f.Take("skipped", r.skipped);
  f.Take("peak_bytes", r.peak_bytes);
  TakeLists(f, r);
  if (const Json* found = f.Find("ratio")) {
    Fields ratio(*found);
    r.ratio.emplace();
    ratio.Take("mean", r.ratio->mean);
    ratio.Take("max", r.ratio->max);
    ratio.Take("clip_share", r.ratio->clip_share);
    ratio.Take("truncated_share", r.ratio->truncated_share);
    ratio.Take("effective_sample_size", r.ratio->effective_sample_size);
    // Older checkpoints know no masks.
    if (ratio.Find("masked_share")) ratio.Take("masked_share", r.ratio->masked_share);
    if (!ratio.good()) f.Fail();
  }
  if (f.Find("reference_kl")) f.Take("reference_kl", r.reference_kl.emplace());
  if (f.Find("distilled")) f.Take("distilled", r.distilled);
  if (const Json* found = f.Find("views")) {
    Fields views(*found);
    r.views = TakeViews(views);
    if (!views.good()) f.Fail();
  }
  return r;
}

// Older checkpoints have none.
std::optional<rl::BatchChain> TakeChain(Fields& f) {
  const Json* found = f.Find("chain");
  if (!found) return std::nullopt;
  Fields fields(*found);
  rl::BatchChain chain;
  std::string hex;
  fields.Take("first", chain.first);
  fields.Take("xxh3", hex);
  const absl::StatusOr<context::Digest> digest = context::Digest::FromHex(hex);
  if (!fields.good() || !digest.ok()) {
    f.Fail();
    return std::nullopt;
  }
  chain.digest = *digest;
  return chain;
}

}  // namespace

std::string ToJson(const CheckpointState& state) {
  Json json = {
      {"format", kFormat},
      {"step", state.ledger.step()},
      {"updates", state.updates},
      {"chain",
       {{"first", state.ledger.chain().first}, {"xxh3", state.ledger.chain().digest.Hex()}}},
      {"results", Json::array()},
      {"files", Json::array()}};
  for (const StepResult& result : state.ledger.results()) json["results"].push_back(JsonOf(result));
  for (const weights::ManifestFile& file : state.files) {
    json["files"].push_back({{"name", file.name}, {"size", file.size}, {"xxh3", file.xxh3}});
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<CheckpointState> CheckpointStateFromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  Fields fields(json);
  int64_t format = 0, step = 0;
  CheckpointState state;
  std::deque<StepResult> results;
  fields.Take("format", format);
  fields.Take("step", step);
  fields.Take("updates", state.updates);
  fields.List("results", [&](Fields& f) { results.push_back(TakeResult(f)); });
  fields.List("files", [&](Fields& f) {
    weights::ManifestFile file;
    f.Take("name", file.name);
    f.Take("size", file.size);
    f.Take("xxh3", file.xxh3);
    state.files.push_back(std::move(file));
  });
  const std::optional<rl::BatchChain> chain = TakeChain(fields);
  if (!fields.good() || format != kFormat) {
    return absl::DataLossError("not the state of a checkpoint of this format");
  }
  ASSIGN_OR_RETURN(state.ledger, StepLedger::Restore(step, std::move(results), chain));
  return state;
}

}  // namespace palimpsest::trainer
