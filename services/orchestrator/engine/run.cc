#include "services/orchestrator/engine/run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/fails_again.h"
#include "common/telemetry/log.h"
#include "common/weights/manifest.h"
#include "services/orchestrator/engine/evaluation.h"
#include "services/orchestrator/engine/report.h"
#include "services/orchestrator/engine/rl_stage.h"
#include "services/orchestrator/engine/sft_stage.h"

namespace palimpsest::orchestrator {
namespace {

// An environment that is started again has the same tasks.
absl::Status CheckTasks(const std::vector<std::string>& asked,
                        const std::vector<std::string>& known) {
  for (size_t i = 0; i < asked.size(); ++i) {
    if (std::find(known.begin(), known.end(), asked[i]) != known.end()) continue;
    return MarkFailsAgain(absl::NotFoundError(
        absl::StrFormat("orchestrator.tasks[%d]=%s: the environment has no such task, but %s", i,
                        asked[i], absl::StrJoin(known, ", "))));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTarget(const Ledger& ledger, const std::string& folder, int64_t steps) {
  ASSIGN_OR_RETURN(const auto rl, ledger.FindStage(kRlStage));
  if (!rl.has_value() || !rl->last_step.has_value() || *rl->last_step - rl->first_step == steps)
    return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "orchestrator.rl.steps=%d, but the run in %s is over after %d: another run needs another "
      "run.folder",
      steps, folder, *rl->last_step - rl->first_step));
}

Run::Run(RunPlan plan, RunIdentity identity, Peers peers, Metrics& metrics, Clock& clock,
         Threads& threads, std::unique_ptr<Ledger> ledger)
    : plan_(std::move(plan)),
      identity_(std::move(identity)),
      peers_(peers),
      clock_(clock),
      metrics_(metrics),
      ledger_(std::move(ledger)),
      patience_(plan_.peers, stop_, metrics_, threads),
      began_(clock.Now()),
      workers_(plan_.rl.max_in_flight, threads),
      place_{plan_,    identity_, peers_, *ledger_, board_,  patience_,
             metrics_, workers_,  clock_, threads,  paused_, in_flight_} {}

Run::~Run() { Stop(); }

absl::StatusOr<std::unique_ptr<Run>> Run::Open(RunPlan plan, RunIdentity identity, Peers peers,
                                               Metrics& metrics, Clock& clock, Threads& threads) {
  RETURN_IF_ERROR(Validate(plan));
  ASSIGN_OR_RETURN(std::unique_ptr<Ledger> ledger,
                   Ledger::Open(identity.folder + "/ledger.sqlite", identity.name, identity.seed));
  RETURN_IF_ERROR(ledger->Hold(identity.settings));
  RETURN_IF_ERROR(CheckTarget(*ledger, identity.folder, plan.rl.steps));
  std::unique_ptr<Run> run(new Run(std::move(plan), std::move(identity), peers, metrics, clock,
                                   threads, std::move(ledger)));
  ASSIGN_OR_RETURN(run->wall_before_, run->ledger_->WallSeconds());
  ASSIGN_OR_RETURN(run->place_.attempt, run->ledger_->BeginAttempt(clock.Now()));
  run->board_.Update([&](Progress& p) {
    p.run = run->identity_.name;
    p.attempt = run->place_.attempt;
  });
  return run;
}

absl::Status Run::Execute() {
  metrics_.ready.Set(1);
  absl::Status status = Stages();
  metrics_.ready.Set(0);
  const bool stopped = absl::IsCancelled(status) && patience_.stopping();
  if (stopped) {
    Log(Severity::kInfo, "the run stops here, to go on at a restart");
    status = absl::OkStatus();
  }
  Stop();  // nothing may wait any more
  Beat();
  board_.Update([&](Progress& p) {
    if (!status.ok()) {
      p.phase = Phase::kFailed;
      p.failure = status.ToString();
    }
  });
  ended_ = true;
  return status;
}

absl::Status Run::Stages() {
  RETURN_IF_ERROR(Meet());
  Training training(place_);
  RETURN_IF_ERROR(training.Synchronise());
  RETURN_IF_ERROR(Sft(training));
  RETURN_IF_ERROR(Heldout(training, "first", plan_.rl.context));
  RETURN_IF_ERROR(Rl(training));
  RETURN_IF_ERROR(Heldout(training, "last", plan_.rl.context));
  for (const std::string& context : plan_.heldout.also) {
    RETURN_IF_ERROR(Heldout(training, "also." + context, context));
  }
  return Report();
}

// Those of the newest version. A version may be deleted while it is read, then there is a newer
// one.
absl::Status Run::LoadTokenizer() {
  ASSIGN_OR_RETURN(const TrainerStatus status, peers_.trainer.Status());
  if (!status.serving || status.published.empty()) {
    return absl::UnavailableError("the trainer has published nothing yet");
  }
  const std::string folder =
      identity_.folder + "/store/" + weights::FolderName(status.published.back().version);
  absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(folder);
  if (absl::IsNotFound(tokenizer.status())) {
    return absl::UnavailableError(std::string(tokenizer.status().message()));
  }
  RETURN_IF_ERROR(tokenizer.status());
  place_.tokenizer = *std::move(tokenizer);
  place_.chat = std::make_shared<const FolderChat>(FolderChat::Read(folder, "the model"));
  return absl::OkStatus();
}

absl::Status Run::Meet() {
  // What an earlier attempt had asked for would come back to nobody.
  const absl::Status aborted = peers_.inference.AbortAll("the orchestrator starts");
  Log(Severity::kInfo, "waiting for the peers", {{"abort", aborted.ToString()}});
  ASSIGN_OR_RETURN(const std::vector<std::string> tasks,
                   patience_.Persist("env.list_tasks", [&] { return peers_.env.Tasks(); }));
  RETURN_IF_ERROR(CheckTasks(plan_.tasks, tasks));
  RETURN_IF_ERROR(patience_.Persist("trainer.status", [&] { return LoadTokenizer(); }));
  {
    absl::MutexLock lock(&tokenizer_mu_);
    tokenizer_ = place_.tokenizer;
  }
  ASSIGN_OR_RETURN(place_.model, patience_.Persist("inference.describe",
                                                   [&] { return peers_.inference.Describe(); }));
  return absl::OkStatus();
}

absl::StatusOr<bool> Run::IsOver(const std::string& stage) const {
  ASSIGN_OR_RETURN(const auto row, ledger_->FindStage(stage));
  return row.has_value() && row->last_step.has_value();
}

absl::Status Run::Sft(Training& training) {
  for (const SftConfig& stage : plan_.sft) {
    ASSIGN_OR_RETURN(const bool over, IsOver(stage.name));
    if (!over) RETURN_IF_ERROR(RunSftStage(place_, training, stage));
  }
  return absl::OkStatus();
}

absl::Status Run::Rl(Training& training) {
  ASSIGN_OR_RETURN(const bool over, IsOver(kRlStage));
  if (!over) {
    RlStage stage(place_, training);
    RETURN_IF_ERROR(stage.Run());
  }
  return training.Save();
}

absl::Status Run::Heldout(Training& training, const std::string& name, const std::string& context) {
  const std::string stage = "heldout." + name;
  ASSIGN_OR_RETURN(const bool over, IsOver(stage));
  HeldoutMean mean{.step = name == "first" ? 0 : plan_.rl.steps, .prompts = plan_.heldout.prompts};
  if (!over) {
    RETURN_IF_ERROR(ledger_->BeginStage(stage, training.step()).status());
    int64_t measured = 0;  // by an earlier attempt
    for (const bool greedy : {false, true}) {
      ASSIGN_OR_RETURN(const std::vector<EvaluationRow> rows, ledger_->Evaluations(name, greedy));
      measured += std::ssize(rows);
    }
    board_.Update([&](Progress& p) {
      p.phase = Phase::kEvaluation;
      p.stage = stage;
      p.step = measured;
      p.total_steps = 2 * plan_.heldout.prompts;  // sampled and greedy
    });
  }
  for (const bool greedy : {false, true}) {
    // With every prompt in the ledger this only reads.
    ASSIGN_OR_RETURN((greedy ? mean.greedy : mean.reward),
                     Measure(place_, training,
                             {.name = name,
                              .context = context,
                              .greedy = greedy,
                              .prompts = plan_.heldout.prompts}));
  }
  if (context == plan_.rl.context) {
    board_.Update([&](Progress& p) { p.heldout.push_back(mean); });
  }
  return over ? absl::OkStatus() : ledger_->EndStage(stage, training.step());
}

absl::Status Run::Report() {
  board_.Update([&](Progress& p) {
    p.phase = Phase::kReport;
    p.stage = "report";
    p.step = p.total_steps = plan_.rl.steps;
  });
  Beat();
  RETURN_IF_ERROR(WriteReport(place_));
  board_.Update([](Progress& p) {
    p.phase = Phase::kDone;
    p.stage = "done";
  });
  return absl::OkStatus();
}

bool Run::Finished() const { return board_.Now().phase == Phase::kDone; }

void Run::Stop() {
  absl::MutexLock lock(&stop_mu_);
  if (stop_.HasBeenNotified()) return;
  stop_.Notify();
  // Whatever is in flight: a silent replica may hold up a call that is about weights.
  const absl::Status status = peers_.inference.AbortAll("the orchestrator stops");
  if (!status.ok()) {
    Log(Severity::kWarning, "rollouts were not aborted", {{"status", status.ToString()}});
  }
}

void Run::Beat() {
  const absl::Status status = ledger_->Beat(clock_.Now());
  if (!status.ok()) Log(Severity::kWarning, "no beat", {{"status", status.ToString()}});
}

Progress Run::WithTimes(Progress progress) const {
  progress.elapsed_seconds = wall_before_ + absl::ToDoubleSeconds(clock_.Now() - began_);
  double step_seconds = 0;
  for (const auto& [phase, seconds] : progress.step_phases) step_seconds += seconds;
  if (progress.phase == Phase::kRl && progress.step > 0 && step_seconds > 0) {
    progress.left_seconds =
        step_seconds * static_cast<double>(progress.total_steps - progress.step);
  }
  return progress;
}

Progress Run::Now() const { return WithTimes(board_.Now()); }

Progress Run::WaitForChange(int64_t seen, absl::Duration timeout) const {
  return WithTimes(board_.WaitForChange(seen, timeout));
}

void Run::Drain(absl::Duration grace) {
  paused_ = true;
  const absl::Time deadline = clock_.Now() + grace;
  while (in_flight_ > 0 && !ended_ && clock_.Now() < deadline) clock_.SleepFor(plan_.peers.poll);
  Stop();
}

absl::StatusOr<RolloutPage> Run::ListRollouts(const RolloutFilter& filter) const {
  return ledger_->List(filter);
}

absl::StatusOr<RolloutRow> Run::GetRollout(const std::string& id) const {
  return ledger_->FindRollout(id);
}

absl::StatusOr<std::vector<std::string>> Run::Pieces(const std::vector<int32_t>& tokens) const {
  std::shared_ptr<const Tokenizer> tokenizer;
  {
    absl::MutexLock lock(&tokenizer_mu_);
    tokenizer = tokenizer_;
  }
  if (tokenizer == nullptr) return absl::UnavailableError("the model is not known yet");
  std::vector<std::string> pieces;
  for (const int32_t token : tokens) {
    ASSIGN_OR_RETURN(pieces.emplace_back(), tokenizer->Decode({&token, 1}));
  }
  return pieces;
}

}  // namespace palimpsest::orchestrator
