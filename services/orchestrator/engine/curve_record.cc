#include "services/orchestrator/engine/curve_record.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace palimpsest::orchestrator {
namespace {

namespace fs = std::filesystem;

// The trainer's step that an evaluation measured; nullopt for those under other contexts.
std::optional<int64_t> StepOf(const std::string& evaluation,
                              const std::map<std::string, StageRow>& stages) {
  const bool between = evaluation.starts_with("step-");
  const auto stage = stages.find(between ? "rl" : "heldout." + evaluation);
  if (stage == stages.end()) return std::nullopt;
  if (evaluation == "first" || evaluation == "last") return stage->second.first_step;
  int64_t step = 0;
  if (!between || !absl::SimpleAtoi(evaluation.substr(5), &step)) return std::nullopt;
  return stage->second.first_step + step;
}

std::vector<Scalar> ScalarsOf(const StepRow& row) {
  std::vector<Scalar> scalars = {{"loss", row.loss}, {"seconds/train", row.train_seconds}};
  if (!row.reward.has_value()) return scalars;
  scalars.push_back({"reward", *row.reward});
  scalars.push_back({"staleness_max", static_cast<double>(row.staleness_max)});
  scalars.push_back({"rollout/events", row.events});
  scalars.push_back({"rollout/tokens", row.mean_total_tokens});
  scalars.push_back({"seconds/generate", row.generate_seconds});
  if (row.generate_seconds > 0) {
    scalars.push_back(
        {"tokens_per_second", static_cast<double>(row.sampled_tokens) / row.generate_seconds});
  }
  if (row.mismatch_kl.has_value()) scalars.push_back({"mismatch/kl", *row.mismatch_kl});
  if (row.mismatch_max_abs.has_value()) {
    scalars.push_back({"mismatch/max_abs", *row.mismatch_max_abs});
  }
  return scalars;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CurveRecord>> CurveRecord::Open(const std::string& run_folder,
                                                               int32_t attempt, Clock& clock) {
  ASSIGN_OR_RETURN(std::unique_ptr<const Ledger> ledger,
                   Ledger::Read(run_folder + "/ledger.sqlite"));
  std::unique_ptr<CurveRecord> record(new CurveRecord(attempt, std::move(ledger), clock));
  ASSIGN_OR_RETURN(record->train_, OpenLine(run_folder + "/tensorboard/train"));
  ASSIGN_OR_RETURN(record->heldout_, OpenLine(run_folder + "/tensorboard/heldout"));
  return record;
}

absl::StatusOr<CurveRecord::Line> CurveRecord::OpenLine(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return absl::InternalError(folder + ": " + error.message());
  Line line{.folder = folder};
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    line.last = std::max(line.last, LastStepOfEventFile(entry.path().string()));
  }
  return line;
}

absl::Status CurveRecord::Add(Line& line, int64_t step, const std::vector<Scalar>& scalars) {
  if (line.file == nullptr) {
    const std::string path = absl::StrFormat("%s/events.out.tfevents.%010d.attempt-%d", line.folder,
                                             absl::ToUnixSeconds(clock_.Now()), attempt_);
    ASSIGN_OR_RETURN(line.file, EventFile::Create(path, clock_.Now()));
  }
  RETURN_IF_ERROR(line.file->Add(clock_.Now(), step, scalars));
  line.last = step;
  return absl::OkStatus();
}

absl::Status CurveRecord::Update() {
  ASSIGN_OR_RETURN(const std::vector<StepRow> steps, ledger_->Steps(train_.last.value_or(0)));
  for (const StepRow& row : steps) RETURN_IF_ERROR(Add(train_, row.step, ScalarsOf(row)));
  ASSIGN_OR_RETURN(const std::vector<StageRow> stages, ledger_->Stages());
  const auto over =
      static_cast<size_t>(std::count_if(stages.begin(), stages.end(), [](const StageRow& stage) {
        return stage.last_step.has_value();
      }));
  if (steps.empty() && over == stages_over_) return absl::OkStatus();
  stages_over_ = over;
  return AddHeldout(stages);
}

// Evaluations under the context that is trained, once every prompt was measured, or could not be,
// both ways.
absl::Status CurveRecord::AddHeldout(const std::vector<StageRow>& stages) {
  std::map<std::string, StageRow> by_name;
  for (const StageRow& stage : stages) by_name[stage.name] = stage;
  if (!by_name["heldout.first"].last_step.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<EvaluationMean> means, ledger_->EvaluationMeans());
  const auto first = std::find_if(means.begin(), means.end(), [](const EvaluationMean& mean) {
    return mean.name == "first" && mean.greedy;
  });
  if (first == means.end()) return absl::OkStatus();
  std::map<int64_t, std::vector<Scalar>> at;
  for (const EvaluationMean& mean : means) {
    const std::optional<int64_t> step = StepOf(mean.name, by_name);
    const bool whole = mean.prompts + mean.unjudged >= first->prompts + first->unjudged;
    if (!step.has_value() || !whole) continue;
    at[*step].push_back({mean.greedy ? "reward/greedy" : "reward", mean.reward});
  }
  for (const auto& [step, scalars] : at) {
    if (scalars.size() == 2 && step > heldout_.last.value_or(-1)) {
      RETURN_IF_ERROR(Add(heldout_, step, scalars));
    }
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::orchestrator
