#include "tools/fsck/fsck.h"

#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_format.h"
#include "common/config/run_sections.h"
#include "tools/fsck/checks.h"
#include "tools/fsck/disk_reader.h"
#include "tools/fsck/ledger_reader.h"

namespace palimpsest::tools {
namespace {

constexpr int kSound = 0, kFindings = 1, kNoRun = 2;
constexpr size_t kShown = 5;  // findings of a check in the table; the JSON has all

// The ledger last: what the disk shows was in the ledger before it was made.
absl::StatusOr<Evidence> Gather(const FsckOptions& options) {
  if (options.run.empty())
    return absl::InvalidArgumentError("RUN=\"\" is empty: the run's folder?");
  const RunSection run{.folder = options.run};
  Evidence evidence;
  ASSIGN_OR_RETURN(evidence.checkpoints, ReadCheckpoints(run.CheckpointFolder(), options.settle));
  ASSIGN_OR_RETURN(evidence.set_aside, NewestSetAside(run.CheckpointFolder()));
  ASSIGN_OR_RETURN(evidence.versions, ReadStore(run.StoreFolder(), options.settle));
  ASSIGN_OR_RETURN(evidence.ledger, ReadLedger(options.run + "/ledger.sqlite"));
  return evidence;
}

std::string Json(const std::string& run, const std::vector<Check>& checks) {
  nlohmann::json json = {{"run", run}, {"checks", nlohmann::json::array()}};
  for (const Check& check : checks) {
    json["checks"].push_back({{"name", check.name},
                              {"ok", check.ok()},
                              {"looked_at", check.looked_at},
                              {"findings", check.findings},
                              {"notes", check.notes}});
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void Show(const std::vector<Check>& checks, std::ostream& table) {
  for (const Check& check : checks) {
    table << absl::StrFormat("%-4s  %-32s %8d looked at\n", check.ok() ? "ok" : "FAIL", check.name,
                             check.looked_at);
    for (size_t i = 0; i < check.findings.size() && i < kShown; ++i) {
      table << "      " << check.findings[i] << '\n';
    }
    if (check.findings.size() > kShown) {
      table << absl::StrFormat("      and %d more\n", check.findings.size() - kShown);
    }
    for (const std::string& note : check.notes) table << "      " << note << '\n';
  }
}

}  // namespace

int RunFsck(const FsckOptions& options, std::ostream& out, std::ostream& table) {
  const absl::StatusOr<Evidence> evidence = Gather(options);
  std::vector<Check> checks;
  std::string run = options.run;
  if (evidence.ok()) {
    run = evidence->ledger.run;
    checks = CheckAll(*evidence, options.max_staleness);
  } else if (absl::IsDataLoss(evidence.status())) {
    LedgerRows broken;
    broken.damage = {std::string(evidence.status().message())};
    checks = {LedgerFileIsWhole(broken)};
  } else {
    table << "palimpsest fsck: " << evidence.status().ToString() << '\n';
    return kNoRun;
  }
  Show(checks, table);
  if (!options.max_staleness.has_value()) {
    table << "      staleness is not judged without --max-staleness\n";
  }
  out << Json(run, checks) << std::endl;
  for (const Check& check : checks) {
    if (!check.ok()) return kFindings;
  }
  return kSound;
}

}  // namespace palimpsest::tools
