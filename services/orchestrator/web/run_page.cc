#include "services/orchestrator/web/run_page.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/rl/replayed.h"
#include "common/weights/manifest.h"
#include "services/orchestrator/web/asset.h"
#include "services/orchestrator/web/json.h"

namespace palimpsest::orchestrator {
namespace {

namespace fs = std::filesystem;

constexpr char kJson[] = "application/json; charset=utf-8";
constexpr std::string_view kRollouts = "/api/rollouts/", kEvents = "/events/";
constexpr absl::Duration kAlive = absl::Seconds(15);  // since the last beat, one comes each second

// The whole numbers of a request, each known by name and bound to [least, most].
class Parameters {
 public:
  explicit Parameters(const HttpRequest& request) : given_(request.parameters) {}

  absl::Status Take(const std::string& name, int64_t least, int64_t most,
                    std::optional<int64_t>& value) {
    const auto found = given_.find(name);
    if (found == given_.end()) return absl::OkStatus();
    int64_t number = 0;
    if (!absl::SimpleAtoi(found->second, &number) || number < least || number > most) {
      return absl::InvalidArgumentError(absl::StrFormat("%s='%s' is no whole number of [%d, %d]",
                                                        name, found->second, least, most));
    }
    value = number;
    given_.erase(found);
    return absl::OkStatus();
  }
  // What was not taken is not known.
  absl::Status End() const {
    if (given_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: there is no such parameter here", given_.begin()->first));
  }

 private:
  std::map<std::string, std::string> given_;
};

int HttpStatus(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return 400;
  if (absl::IsNotFound(status)) return 404;
  return absl::IsUnavailable(status) ? 503 : 500;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunPage>> RunPage::Open(const std::string& folder,
                                                       const RolloutCodec& codec, Clock& clock,
                                                       std::optional<LiveRun> live) {
  ASSIGN_OR_RETURN(std::unique_ptr<const Ledger> ledger, Ledger::Read(folder + "/ledger.sqlite"));
  return std::unique_ptr<RunPage>(
      new RunPage(folder, codec, clock, std::move(live), std::move(ledger)));
}

HttpAnswer RunPage::Answer(const HttpRequest& request) const {
  for (const Asset& asset : Assets()) {
    if (asset.path == request.path) {
      return {.type = std::string(asset.type), .body = std::string(asset.content)};
    }
  }
  Body body = Api(request);
  if (body.ok()) return {.type = kJson, .body = *std::move(body)};
  return {.status = HttpStatus(body.status()),
          .type = kJson,
          .body = Dump({{"error", std::string(body.status().message())},
                        {"code", absl::StatusCodeToString(body.status().code())}})};
}

RunPage::Body RunPage::Api(const HttpRequest& request) const {
  const std::string& path = request.path;
  if (path == "/api/curves") return Curves(request);
  if (path == "/api/rollouts") return List(request);
  RETURN_IF_ERROR(Parameters(request).End());
  if (path == "/api/progress") return ProgressOf();
  if (path == "/api/fleet") return Fleet();
  if (path.starts_with(kRollouts)) return One(path.substr(kRollouts.size()));
  return absl::NotFoundError(path + ": there is no such page");
}

// Of a run that nobody makes: as far as its ledger tells.
absl::StatusOr<Progress> RunPage::Remembered() const {
  Progress p;
  ASSIGN_OR_RETURN(const RunRow about, ledger_->About());
  p.run = about.run;
  p.attempt = std::max(0, about.attempts - 1);
  ASSIGN_OR_RETURN(p.elapsed_seconds, ledger_->WallSeconds());
  ASSIGN_OR_RETURN(const std::vector<StageRow> stages, ledger_->Stages());
  if (!stages.empty()) p.stage = stages.back().name;
  ASSIGN_OR_RETURN(const std::vector<Weights> versions, ledger_->Versions());
  if (!versions.empty()) p.policy_version = versions.back().version.value();
  ASSIGN_OR_RETURN(const std::vector<StepRow> steps, ledger_->Steps());
  if (steps.empty()) return p;
  const StepRow& last = steps.back();
  p.step = std::count_if(steps.begin(), steps.end(),
                         [&](const StepRow& row) { return row.stage == p.stage; });
  p.reward = last.reward;
  p.events_per_rollout = last.events;
  p.mean_total_tokens = last.mean_total_tokens;
  p.staleness_max = last.staleness_max;
  p.mismatch_kl = last.mismatch_kl;
  p.mismatch_max_abs = last.mismatch_max_abs;
  p.step_phases = {{"generate", last.generate_seconds}, {"train", last.train_seconds}};
  if (last.generate_seconds > 0) {
    p.tokens_per_second = static_cast<double>(last.sampled_tokens) / last.generate_seconds;
  }
  return p;
}

RunPage::Body RunPage::ProgressOf() const {
  // With the folder: who comes by an address can tell whose page this is.
  const auto told = [this](nlohmann::json progress) {
    std::error_code error;
    progress["folder"] = fs::canonical(folder_, error).string();
    return Dump(progress);
  };
  if (live_.has_value()) {
    const Progress now = live_->progress();
    return told(ProgressJson(now, std::string(Name(now.phase)), true));
  }
  ASSIGN_OR_RETURN(const Progress past, Remembered());
  ASSIGN_OR_RETURN(const RunRow about, ledger_->About());
  const bool done = fs::exists(folder_ + "/report/report.json");
  const bool beats = clock_.Now() - about.seen < kAlive;
  return told(ProgressJson(past, done ? "done" : beats ? "running" : "stopped", false));
}

RunPage::Body RunPage::Curves(const HttpRequest& request) const {
  Parameters parameters(request);
  std::optional<int64_t> points;
  RETURN_IF_ERROR(parameters.Take("points", 2, 5000, points));
  RETURN_IF_ERROR(parameters.End());
  ASSIGN_OR_RETURN(const std::vector<StepRow> steps, ledger_->Steps());
  ASSIGN_OR_RETURN(const std::vector<EvaluationMean> heldout, ledger_->EvaluationMeans());
  return Dump(CurvesJson(steps, heldout, static_cast<int32_t>(points.value_or(600))));
}

RunPage::Body RunPage::Fleet() const {
  ASSIGN_OR_RETURN(const std::vector<StageRow> stages, ledger_->Stages());
  ASSIGN_OR_RETURN(const std::vector<Weights> versions, ledger_->Versions());
  const auto peers = live_.has_value() ? live_->peers() : std::vector<PeerFacts>();
  return Dump(FleetJson(peers, stages, versions));
}

RunPage::Body RunPage::List(const HttpRequest& request) const {
  Parameters parameters(request);
  RolloutFilter filter;
  std::optional<int64_t> before, limit;
  RETURN_IF_ERROR(parameters.Take("step", 0, INT64_MAX, filter.step));
  RETURN_IF_ERROR(parameters.Take("group", 0, INT64_MAX, filter.group));
  RETURN_IF_ERROR(parameters.Take("before", 1, INT64_MAX, before));
  RETURN_IF_ERROR(parameters.Take("limit", 1, 200, limit));
  RETURN_IF_ERROR(parameters.End());
  filter.before = before.value_or(0);
  filter.limit = static_cast<int32_t>(limit.value_or(50));
  ASSIGN_OR_RETURN(const RolloutPage page, ledger_->List(filter));
  nlohmann::json rows = nlohmann::json::array();
  for (const RolloutRow& row : page.rows) rows.push_back(RowJson(row));
  return Dump({{"rows", std::move(rows)}, {"next", page.next}});
}

absl::StatusOr<std::optional<StepRow>> RunPage::TrainedIn(const RolloutRow& row) const {
  if (!row.step.has_value()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::vector<StepRow> steps, ledger_->Steps());
  const auto step = std::find_if(steps.begin(), steps.end(),
                                 [&](const StepRow& s) { return s.step == *row.step; });
  return step == steps.end() ? std::nullopt : std::optional(*step);
}

// "ID" or "ID/events/N".
RunPage::Body RunPage::One(const std::string& rest) const {
  const size_t cut = rest.find(kEvents);
  ASSIGN_OR_RETURN(const RolloutRow row, ledger_->FindRollout(rest.substr(0, cut)));
  ASSIGN_OR_RETURN(const rl::Rollout rollout, codec_.Decode(row.bytes));
  if (cut == std::string::npos) {
    ASSIGN_OR_RETURN(const std::optional<StepRow> trained, TrainedIn(row));
    std::vector<float> replayed;
    if (!row.replayed.empty()) {
      ASSIGN_OR_RETURN(replayed, rl::ByPosition(rollout, row.replayed));
    }
    return Dump(RolloutJson(row, rollout, Pieces(rollout.tokens), replayed, trained));
  }
  const std::string number = rest.substr(cut + kEvents.size());
  size_t event = 0;
  if (!absl::SimpleAtoi(number, &event) || event >= rollout.events.size()) {
    return absl::NotFoundError(absl::StrFormat("event=%s: the rollout %s has %d events", number,
                                               row.id, rollout.events.size()));
  }
  return Dump(KeptJson(rollout, event));
}

std::vector<std::string> RunPage::Pieces(const std::vector<int32_t>& tokens) const {
  const std::shared_ptr<const Tokenizer> tokenizer = FindTokenizer();
  std::vector<std::string> pieces;
  for (const int32_t token : tokens) {
    absl::StatusOr<std::string> text =
        tokenizer == nullptr ? absl::NotFoundError("") : tokenizer->Decode({&token, 1});
    pieces.push_back(text.ok() ? *std::move(text) : absl::StrFormat("<%d>", token));
  }
  return pieces;
}

// That of any version which the store still holds: they are all of one model. A version may be
// deleted while it is read, then the next request finds another.
std::shared_ptr<const Tokenizer> RunPage::FindTokenizer() const {
  const absl::MutexLock lock(&mu_);
  if (tokenizer_ != nullptr) return tokenizer_;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_ + "/store", error)) {
    if (!weights::VersionFromFolderName(entry.path().filename().string()).has_value()) continue;
    auto loaded = Tokenizer::Load(entry.path().string());
    if (!loaded.ok()) continue;
    tokenizer_ = *std::move(loaded);
    break;
  }
  return tokenizer_;
}

}  // namespace palimpsest::orchestrator
