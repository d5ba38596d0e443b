#include "tests/simulation/simulation.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/engine/run.h"
#include "services/orchestrator/server/messages.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/env.h"
#include "tests/simulation/inference.h"
#include "tests/simulation/trainer.h"

namespace palimpsest::simulation {
namespace {

constexpr char kName[] = "simulation";
constexpr absl::Duration kLimit = absl::Hours(2);  // a run takes minutes
constexpr absl::Duration kBeat = absl::Seconds(5);
constexpr absl::Duration kGrace = absl::Seconds(2);
constexpr absl::Duration kPause = absl::Seconds(15);

// The ledger's, or one that loses the versions of tokens, or changes their log.
class Codec final : public orchestrator::RolloutCodec {
 public:
  explicit Codec(Plant plant) : plant_(plant) {}
  std::string Encode(const rl::Rollout& rollout) const override { return wire_.Encode(rollout); }
  absl::StatusOr<rl::Rollout> Decode(std::string_view bytes) const override {
    absl::StatusOr<rl::Rollout> rollout = wire_.Decode(bytes);
    if (!rollout.ok()) return rollout;
    std::vector<context::Event>& events = rollout->events;
    if (plant_ == Plant::kTokenWithoutVersion) rollout->spans.clear();
    if (plant_ == Plant::kEventForged && !events.empty()) events.back().digest->bytes[0] ^= 1;
    if (plant_ == Plant::kEventForgotten && !events.empty()) events.pop_back();
    return rollout;
  }

 private:
  const orchestrator::WireRolloutCodec wire_;
  const Plant plant_;
};

class Simulation {
 public:
  Simulation(const Scenario& scenario, const std::string& folder)
      : scenario_(scenario),
        folder_(folder),
        run_seed_(MixSeed({scenario.seed, Meaning("run")})),
        scheduler_(scenario.seed),
        history_(scheduler_),
        disk_(scenario.seed, [this] { Kill(); }),
        network_(scenario, scheduler_, history_),
        promises_(scenario, run_seed_, history_),
        env_(scenario, scheduler_, network_),
        inference_(scenario, folder + "/store", scheduler_, network_, history_, promises_),
        trainer_(scenario, folder + "/store", scheduler_, network_, history_, promises_),
        codec_(scenario.plant),
        random_(MixSeed({scenario.seed, Meaning("simulation")})) {
    SetLogConfig({.role = "orchestrator", .run = kName, .clock = &scheduler_});
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder + "/store");
    network_.on_fault = [this](Fault fault) { Happen(fault); };
    disk_.set_lying(scenario.plant == Plant::kDiskLies);
  }
  ~Simulation() { SetLogConfig({}); }

  Outcome Run() {
    const absl::Time began = scheduler_.Now();
    Outcome outcome;
    while (!finished_ && history_.broken().empty()) {
      ++outcome.attempts;
      Attempt();
      Between();
      scheduler_.SleepFor(absl::Seconds(5 * random_.Uniform()));
    }
    outcome.seconds = absl::ToDoubleSeconds(scheduler_.Now() - began);
    inference_.End();
    scheduler_.AwaitAll();
    if (finished_) {
      Inspect([this](const orchestrator::Ledger& ledger) {
        promises_.LookAtTheEnd(ledger, trainer_.batches(), trainer_.durable_step(),
                               inference_.open_sessions());
      });
    }
    outcome.broken = history_.broken();
    outcome.latest = history_.latest();
    outcome.digest = history_.digest();
    outcome.events = history_.events();
    outcome.turns = scheduler_.turns();
    outcome.continued = inference_.continued();
    outcome.continued_episodes = inference_.continued_episodes();
    outcome.continued_events = inference_.continued_events();
    outcome.trained_events = promises_.trained_events();
    return outcome;
  }

 private:
  void Happen(Fault fault);
  void Kill() {
    network_.set_alive(false);
    disk_.Detach();
  }
  void Attempt();
  absl::Status Accompany(orchestrator::Run& run);
  void Judge(const absl::Status& status, int64_t disk_faults);
  void Between();
  void PlantBetween();
  void Inspect(const std::function<void(const orchestrator::Ledger&)>& look);
  std::string LedgerPath() const { return folder_ + "/ledger.sqlite"; }

  const Scenario& scenario_;
  const std::string folder_;
  const uint64_t run_seed_;
  Scheduler scheduler_;
  History history_;
  ScopedLogSink log_{[this](const std::string& line) { history_.Add(line); }};
  Disk disk_;
  Network network_;
  Promises promises_;
  SimEnv env_;
  SimInference inference_;
  SimTrainer trainer_;
  const Codec codec_;
  RandomStream random_;
  bool finished_ = false;
  bool power_cut_ = false;
  bool drain_ = false, pause_ = false;  // are asked for
};

void Simulation::Happen(Fault fault) {
  switch (fault) {
    case Fault::kTrainerDies:
      return trainer_.Die();
    case Fault::kTrainerDiesPublishing:
      return trainer_.DieAtNextPublish();
    case Fault::kReplicaDies:
      return inference_.Die(static_cast<size_t>(random_.Below(scenario_.replicas)));
    case Fault::kEnvDies:
      return env_.Die();
    case Fault::kSampleLost:
      return inference_.LoseSample();
    case Fault::kSessionLost:
      return inference_.LoseSession();
    case Fault::kUnjudged:
      return env_.FailToJudge();
    case Fault::kRaised:
      return env_.Raise();
    case Fault::kPowerCut:
      power_cut_ = true;
      return Kill();
    case Fault::kKilled:
      return Kill();
    case Fault::kKilledWriting:
      return disk_.Plan(DiskFault::kKill);
    case Fault::kWriteFails:
      return disk_.Plan(DiskFault::kWriteFails);
    case Fault::kWriteTears:
      return disk_.Plan(DiskFault::kWriteTears);
    case Fault::kDiskFull:
      return disk_.Plan(DiskFault::kFull);
    case Fault::kSyncFails:
      return disk_.Plan(DiskFault::kSyncFails);
    case Fault::kDrained:
      drain_ = true;
      return;
    case Fault::kPaused:
      pause_ = true;
      return;
    case Fault::kCallLost:
    case Fault::kAnswerLost:
    case Fault::kCallLate:
    case Fault::kRefused:
      return;  // the network's own
  }
}

// One life of the orchestrator, as its main() leads it.
void Simulation::Attempt() {
  history_.Add("-- the orchestrator starts");
  network_.set_alive(true);
  disk_.Attach();
  drain_ = pause_ = false;
  const int64_t disk_faults = disk_.faults();
  orchestrator::RunPlan plan = scenario_.plan;
  if (scenario_.plant == Plant::kQueueUnbounded) plan.rl.max_in_flight += 4;
  if (scenario_.plant == Plant::kStaleTrained) plan.rl.max_staleness += 2;
  Metrics metrics("orchestrator", kName, scheduler_);
  absl::Status status;
  {
    auto run = orchestrator::Run::Open(std::move(plan), {kName, folder_, run_seed_, ""},
                                       {env_, inference_, trainer_, codec_}, metrics, scheduler_,
                                       scheduler_);
    status = run.ok() ? Accompany(**run) : run.status();
  }
  history_.Add("-- the orchestrator ends: " + status.ToString());
  Judge(status, disk_faults);
}

absl::Status Simulation::Accompany(orchestrator::Run& run) {
  std::optional<absl::Status> end;
  const auto loop = scheduler_.Start([&] { end = run.Execute(); });
  const absl::Time began = scheduler_.Now();
  absl::Time paused_until = absl::InfiniteFuture();
  while (!end.has_value()) {
    scheduler_.WaitUntil([&] { return end.has_value() || !network_.alive() || drain_ || pause_; },
                         kBeat);
    if (end.has_value() || !network_.alive()) break;
    run.Beat();
    if (drain_) run.Drain(kGrace);
    if (pause_) paused_until = scheduler_.Now() + kPause;
    if (scheduler_.Now() >= paused_until) paused_until = absl::InfiniteFuture();
    if (!drain_) run.SetPaused(paused_until < absl::InfiniteFuture());
    drain_ = pause_ = false;
    if (scheduler_.Now() - began > kLimit) {
      history_.Broken("liveness", "the run does not end");
      Kill();
    }
  }
  const std::map<rl::Outcome, int64_t> outcomes = run.Now().outcomes;
  const auto accepted = outcomes.find(rl::Outcome::kOk);
  if (accepted != outcomes.end()) promises_.Acknowledged(accepted->second);
  run.Stop();
  scheduler_.WaitUntil([&] { return end.has_value(); }, absl::InfiniteDuration());
  finished_ = network_.alive() && end->ok() && run.Finished();
  return *end;
}

// An attempt may end early only for a reason.
void Simulation::Judge(const absl::Status& status, int64_t disk_faults) {
  if (status.ok() || !network_.alive() || disk_.faults() > disk_faults) return;
  // A prompt that no try could serve, when there are few: the supervisor starts the run again.
  if (scenario_.plan.rl.max_tries < 10 && absl::IsInternal(status)) return;
  history_.Broken("liveness", "the run failed: " + status.ToString());
}

void Simulation::Between() {
  network_.set_alive(false);
  disk_.Attach();
  if (power_cut_) disk_.CutPower();
  power_cut_ = false;
  PlantBetween();
  Inspect([this](const orchestrator::Ledger& ledger) { promises_.Look(ledger); });
}

void Simulation::PlantBetween() {
  const char* change = nullptr;
  if (scenario_.plant == Plant::kAcceptedRolloutLost) {
    change = "DELETE FROM rollouts WHERE place = (SELECT MAX(place) FROM rollouts)";
  } else if (scenario_.plant == Plant::kPromptSkipped) {
    change =
        "UPDATE prompt_groups SET idx = idx + 1 WHERE id = (SELECT MAX(id) FROM prompt_groups)";
  }
  if (change == nullptr) return;
  const auto db = orchestrator::Database::Open(LedgerPath());
  if (db.ok()) (*db)->Execute(change).IgnoreError();
}

// A look changes nothing.
void Simulation::Inspect(const std::function<void(const orchestrator::Ledger&)>& look) {
  const auto before = disk_.Copy();
  disk_.set_faulty(false);
  {
    const auto ledger = orchestrator::Ledger::Open(LedgerPath(), kName, run_seed_);
    if (ledger.ok()) {
      look(**ledger);
    } else {
      history_.Broken("accepted", "the ledger cannot be opened: " + ledger.status().ToString());
    }
  }
  disk_.set_faulty(true);
  disk_.Restore(*before);
}

}  // namespace

Outcome Simulate(const Scenario& scenario, const std::string& folder) {
  return Simulation(scenario, folder).Run();
}

}  // namespace palimpsest::simulation
