#include "tools/eval/eval.h"

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/weights/durable_file.h"
#include "tools/eval/env_settings.h"
#include "tools/eval/own_daemons.h"
#include "tools/eval/progress.h"
#include "tools/eval/report.h"
#include "tools/eval/services.h"

namespace palimpsest::tools::eval {
namespace {

constexpr absl::Duration kMeet = absl::Seconds(10);  // daemons that should be there
constexpr absl::Duration kStart = absl::Minutes(5);  // own ones, which load a model

absl::Status Refuse(const std::string& why) { return absl::InvalidArgumentError(why); }

absl::Status CheckNumbers(const EvalOptions& o) {
  if (o.n < 1) return Refuse(absl::StrFormat("--n %d is not > 0", o.n));
  if (o.samples < 1) return Refuse(absl::StrFormat("--samples %d is not > 0", o.samples));
  if (o.max_tokens < 0) return Refuse(absl::StrFormat("--max-tokens %d is < 0", o.max_tokens));
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) {
    return Refuse(absl::StrFormat("--temperature %g is not >= 0", o.temperature));
  }
  if (!std::isfinite(o.right)) return Refuse(absl::StrFormat("--right %g is no number", o.right));
  if (o.concurrency < 1 || o.concurrency > 1024) {
    return Refuse(absl::StrFormat("--concurrency %d is outside of [1, 1024]", o.concurrency));
  }
  if (o.tries < 1) return Refuse(absl::StrFormat("--tries %d is not > 0", o.tries));
  if (o.split == "heldout" || o.split == "train" || o.split == "sft") return absl::OkStatus();
  return Refuse(absl::StrFormat("--split %s is none of heldout, train, sft", o.split));
}

absl::Status CheckPlaces(const EvalOptions& o) {
  if (o.server.empty() == o.model.empty()) return Refuse("give one of --server and --model");
  if (o.env.empty() == o.config.empty()) return Refuse("give one of --env and --config");
  if (!o.tls.empty() && o.server.empty() && o.env.empty()) {
    return Refuse("--tls is for --server and --env; what is served meanwhile needs none");
  }
  for (const std::string& set : o.sets) {
    if (!o.model.empty() && set.starts_with("inference.")) continue;
    if (!o.config.empty() && set.starts_with("env.")) continue;
    return Refuse(absl::StrFormat(
        "--set %s is neither inference.KEY=VALUE with --model nor env.KEY=VALUE with --config",
        set));
  }
  return absl::OkStatus();
}

absl::StatusOr<Plan> MakePlan(const EvalOptions& o) {
  RETURN_IF_ERROR(CheckPlaces(o));
  RETURN_IF_ERROR(CheckNumbers(o));
  Plan plan{.split = o.split,
            .seed = o.seed,
            .samples = o.samples,
            .max_tokens = o.max_tokens,
            .temperature = o.temperature,
            .right = o.right};
  ASSIGN_OR_RETURN(plan.tasks, ParseTasks(o.tasks, o.n));
  ASSIGN_OR_RETURN(plan.policies, ParsePolicies(o.policies, o.baselines));
  return plan;
}

// An environment daemon that was there before us keeps its options to itself.
absl::StatusOr<Settings> AllSettings(const EvalOptions& o, const Plan& plan, const ModelFacts& m) {
  Settings settings = SettingsOf(plan);
  if (!o.config.empty()) {
    ASSIGN_OR_RETURN(const Settings env, EnvSettings(o.config, o.sets));
    settings.insert(env.begin(), env.end());
  }
  settings["model"] =
      absl::StrFormat("%s, %d layers, hidden %d, %d KV heads of %d, %s", m.architecture, m.layers,
                      m.hidden, m.kv_heads, m.head_dim, m.dtype);
  settings["policy_version"] = absl::StrFormat("%d", m.policy_version);
  return settings;
}

absl::Status WriteReport(const Summary& summary, const EvalOptions& o) {
  RETURN_IF_ERROR(weights::WriteFileDurably(o.out + "/eval.json", ReportJson(summary, o.command)));
  RETURN_IF_ERROR(weights::WriteFileDurably(o.out + "/eval.svg", ReportPicture(summary)));
  return weights::WriteFileDurably(o.out + "/eval.md", ReportPage(summary, o.command));
}

// Handshake and the checks that need it, before anything is written.
absl::StatusOr<std::unique_ptr<Services>> MeetServices(const EvalOptions& o, const Plan& plan,
                                                       OwnDaemons* own) {
  const absl::Time deadline = SystemClock().Now() + (own == nullptr ? kMeet : kStart);
  ASSIGN_OR_RETURN(const Tls tls, Tls::Open({.folder = o.tls}, Role::kClient, SystemClock()));
  // Own daemons stand on loopback in clear text.
  const auto place = [own, &tls](const std::string& given, const char* role) -> Place {
    if (!given.empty()) return {[given] { return given; }, tls};
    return {[own, role] { return own->AddressOf(role); }, {}};
  };
  auto services = ConnectServices(place(o.server, "inference"), place(o.env, "env"));
  RETURN_IF_ERROR(services->Meet(deadline, SystemClock()));
  RETURN_IF_ERROR(CheckTasks(plan, services->tasks()));
  return services;
}

}  // namespace

absl::Status CheckEval(const EvalOptions& options) { return MakePlan(options).status(); }

absl::Status RunEval(const EvalOptions& o, std::ostream& out) {
  ASSIGN_OR_RETURN(const Plan plan, MakePlan(o));
  std::unique_ptr<OwnDaemons> own;
  if (!o.model.empty() || !o.config.empty()) {
    ASSIGN_OR_RETURN(
        own,
        OwnDaemons::Start(
            {.folder = o.out + "/daemons", .model = o.model, .config = o.config, .sets = o.sets}));
  }
  ASSIGN_OR_RETURN(const auto services, MeetServices(o, plan, own.get()));
  ASSIGN_OR_RETURN(const Settings settings, AllSettings(o, plan, services->model()));
  ASSIGN_OR_RETURN(const auto book, AnswerBook::Open(o.out, settings));
  const auto asker = services->MakeAsker(plan);
  const auto stopping = [&own] { return own != nullptr && own->stopping(); };
  ProgressLine line(SystemClock());
  absl::StatusOr<std::vector<Missing>> missing =
      AskAll(plan, {.concurrency = o.concurrency, .tries = o.tries}, *asker, *book, SystemClock(),
             stopping, [&line](const Tally& tally) { line.Show(tally); });
  line.End();
  RETURN_IF_ERROR(missing.status());
  if (stopping()) {
    return absl::CancelledError(
        absl::StrFormat("stopped; what was answered stands in %s, and the same command goes on "
                        "from there",
                        o.out));
  }
  const int64_t lost = static_cast<int64_t>(missing->size());
  const Summary summary = Summarize(plan, services->model(), book->answers(), *std::move(missing));
  RETURN_IF_ERROR(WriteReport(summary, o));
  int64_t answers = 0;
  for (const PolicySummary& policy : summary.policies) answers += policy.all.answers;
  out << nlohmann::json{{"report", o.out + "/eval.md"}, {"answers", answers}, {"missing", lost}}
             .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)
      << '\n';
  if (lost == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrFormat("%d of %d answers are missing (%s); the same command asks for them again",
                      lost, lost + answers, summary.missing.front().why));
}

}  // namespace palimpsest::tools::eval
