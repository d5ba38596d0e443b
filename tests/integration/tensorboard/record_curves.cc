// record_curves RUN ATTEMPT FIRST LAST: as the orchestrator does, for tensorboard_test.py. Commits
// steps FIRST to LAST of RL into the run's ledger, which is made where there is none, with numbers
// by a formula that the test knows too, and records them.
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "services/orchestrator/engine/curve_record.h"

namespace palimpsest::orchestrator {
namespace {

absl::Status Measure(Ledger& ledger, const std::string& name, double reward) {
  for (const bool greedy : {false, true}) {
    RETURN_IF_ERROR(ledger.SaveEvaluation({name, greedy, 0, reward + 0.125 * greedy}));
  }
  return absl::OkStatus();
}

absl::Status Commit(Ledger& ledger, int64_t first, int64_t last) {
  if (first == 1) {
    RETURN_IF_ERROR(ledger.BeginStage("heldout.first", 0).status());
    RETURN_IF_ERROR(Measure(ledger, "first", 0.25));
    RETURN_IF_ERROR(ledger.EndStage("heldout.first", 0));
    RETURN_IF_ERROR(ledger.BeginStage("rl", 0).status());
  }
  for (int64_t step = first; step <= last; ++step) {
    const auto x = static_cast<double>(step);
    StepRow row{.step = step, .stage = "rl", .loss = -x, .reward = x / 16, .sampled_tokens = 100};
    row.staleness_max = step % 2;
    row.mismatch_max_abs = 1e-6 * x;
    row.generate_seconds = 4;
    RETURN_IF_ERROR(ledger.MarkTrained(row));
  }
  return Measure(ledger, "step-" + std::to_string(last), 0.5);
}

absl::Status Record(const std::string& folder, int attempt, int64_t first, int64_t last) {
  std::filesystem::create_directories(folder);
  ASSIGN_OR_RETURN(const auto ledger, Ledger::Open(folder + "/ledger.sqlite", "run", 1));
  ASSIGN_OR_RETURN(const auto record, CurveRecord::Open(folder, attempt, SystemClock()));
  RETURN_IF_ERROR(Commit(*ledger, first, last));
  return record->Update();
}

}  // namespace
}  // namespace palimpsest::orchestrator

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: record_curves RUN ATTEMPT FIRST LAST\n";
    return 2;
  }
  const absl::Status status = palimpsest::orchestrator::Record(
      argv[1], std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]));
  if (!status.ok()) std::cerr << status << '\n';
  return status.ok() ? 0 : 1;
}
