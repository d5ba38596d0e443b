#include "services/orchestrator/engine/step_trace.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/weights/durable_file.h"

namespace palimpsest::orchestrator {
namespace {

using nlohmann::json;

constexpr int kCaller = 1;  // the process of the orchestrator in the picture
constexpr char kFolder[] = "/trace";

// "/palimpsest.v1.EnvironmentService/Reset" -> {"Environment", "Reset"}
std::pair<std::string, std::string> RoleAndCall(const std::string& method) {
  const size_t slash = method.rfind('/');
  const size_t dot = method.rfind('.', slash);
  std::string service = method.substr(dot + 1, slash - dot - 1);
  constexpr std::string_view kEnd = "Service";
  if (service.ends_with(kEnd)) service.resize(service.size() - kEnd.size());
  return {service, method.substr(slash + 1)};
}

json Named(const char* what, int process, int row, const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", process}, {"tid", row}, {"args", {{"name", name}}}};
}

json Complete(const CallSpan& span, const std::string& name, int process, int row, absl::Time begin,
              absl::Duration length) {
  return {{"ph", "X"},
          {"name", name},
          {"pid", process},
          {"tid", row},
          {"ts", absl::ToUnixMicros(begin)},
          {"dur", absl::ToInt64Microseconds(length)},
          {"args", {{"trace", span.trace.Hex()}, {"ok", span.ok}}}};
}

}  // namespace

std::string ChromeTrace(const std::vector<TraceRow>& rows) {
  json events = json::array({Named("process_name", kCaller, 0, "orchestrator")});
  std::map<std::string, int> processes;
  int row = 0;
  for (const TraceRow& of : rows) {
    ++row;
    events.push_back(Named("thread_name", kCaller, row, of.name));
    for (const CallSpan& span : of.spans) {
      const auto [role, call] = RoleAndCall(span.method);
      events.push_back(Complete(span, role + "." + call, kCaller, row, span.begin, span.length));
      if (!span.served.has_value()) continue;
      const auto [process, fresh] =
          processes.emplace(role, kCaller + 1 + static_cast<int>(processes.size()));
      if (fresh) events.push_back(Named("process_name", process->second, 0, role));
      events.push_back(
          Complete(span, call, process->second, row, span.served->begin, span.served->length));
    }
  }
  return json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

absl::Status StepTrace::Open() {
  ASSIGN_OR_RETURN(ledger_, Ledger::Read(run_folder_ + "/ledger.sqlite"));
  std::error_code error;
  std::filesystem::create_directories(run_folder_ + kFolder, error);
  if (error) return absl::InternalError(run_folder_ + kFolder + ": " + error.message());
  ASSIGN_OR_RETURN(written_, ledger_->LastStep());
  return absl::OkStatus();
}

TraceId StepTrace::IdOf(int64_t step) const {
  const auto half = [&](const char* which) {
    return MixSeed({seed_, Meaning("trace"), Meaning(which), static_cast<uint64_t>(step)});
  };
  return {half("high"), half("low")};
}

TraceScope::Work StepTrace::OfGroup(int64_t group, int64_t step) {
  return {IdOf(step), this, group};
}
TraceScope::Work StepTrace::OfStep(int64_t step) { return {IdOf(step), this}; }

void StepTrace::Take(CallSpan span) {
  const absl::MutexLock lock(&mu_);
  spans_.push_back(std::move(span));
  if (spans_.size() > kMaxSpans) spans_.pop_front();
}

absl::Status StepTrace::Update(bool ended) {
  if (ledger_ == nullptr) RETURN_IF_ERROR(Open());
  ASSIGN_OR_RETURN(const std::vector<StepRow> steps, ledger_->Steps(written_));
  const size_t over = steps.size() - (steps.empty() || ended ? 0 : 1);
  for (size_t i = 0; i < over; ++i) {
    if (steps[i].step % every_ == 0) RETURN_IF_ERROR(Write(steps[i].step));
    written_ = steps[i].step;
  }
  return absl::OkStatus();
}

absl::Status StepTrace::Write(int64_t step) {
  ASSIGN_OR_RETURN(const std::vector<RolloutRow> members, ledger_->Members(step));
  std::set<int64_t> groups;
  for (const RolloutRow& member : members) groups.insert(member.group);
  std::vector<TraceRow> rows = {{absl::StrFormat("step %d", step), {}}};
  std::map<int64_t, size_t> row_of;
  for (const int64_t group : groups) {
    row_of[group] = rows.size();
    rows.push_back({absl::StrFormat("group %d", group), {}});
  }
  const TraceId own = IdOf(step);
  {
    const absl::MutexLock lock(&mu_);
    for (const CallSpan& span : spans_) {
      if (!span.part) {
        if (span.trace == own) rows[0].spans.push_back(span);
      } else if (const auto row = row_of.find(*span.part); row != row_of.end()) {
        rows[row->second].spans.push_back(span);
      }
    }
  }
  return weights::WriteFileDurably(absl::StrFormat("%s%s/step_%d.json", run_folder_, kFolder, step),
                                   ChromeTrace(rows));
}

}  // namespace palimpsest::orchestrator
