#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "tests/simulation/history.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/scheduler.h"

namespace palimpsest::simulation {

// Between the orchestrator and its peers. A peer works on a call in a thread of its own: whoever
// asks may give up, or die, before it is done.
class Network {
 public:
  Network(const Scenario& scenario, Scheduler& scheduler, History& history)
      : scenario_(scenario),
        scheduler_(scheduler),
        history_(history),
        random_(MixSeed({scenario.seed, Meaning("network")})) {}

  // Told what happens to the run now, of a planned fault that is no call's. Set once.
  std::function<void(Fault)> on_fault;

  // The answer of `serve` to a call of the orchestrator, or what became of the call.
  template <class T>
  absl::StatusOr<T> Call(const std::string& what, absl::Duration deadline,
                         std::function<absl::StatusOr<T>()> serve) {
    struct Exchange {
      std::optional<absl::StatusOr<T>> answer;
    };
    const std::optional<Fault> fate = Begin(what);
    if (!alive_) return Dead();
    if (fate == Fault::kRefused) return absl::ResourceExhaustedError("full");
    const auto exchange = std::make_shared<Exchange>();
    const absl::Duration there = Way() + (fate == Fault::kCallLate ? Late(deadline) : Way());
    const absl::Duration back = Way();
    const bool reset = random_.Below(2) == 0;  // what is lost is noticed at once
    scheduler_.Spawn([this, what, exchange, fate, there, back, reset, serve = std::move(serve)] {
      scheduler_.SleepFor(there);
      absl::StatusOr<T> answer = absl::UnavailableError("the connection was reset");
      if (fate != Fault::kCallLost) answer = serve();
      history_.Add(what + " " + (answer.ok() ? "OK" : answer.status().ToString()));
      const bool lost = fate == Fault::kCallLost || fate == Fault::kAnswerLost;
      if (lost && !reset) return;
      if (lost) answer = absl::UnavailableError("the connection was reset");
      scheduler_.SleepFor(back);
      exchange->answer = std::move(answer);
    });
    scheduler_.WaitUntil([&] { return exchange->answer.has_value() || !alive_; }, deadline);
    if (!alive_) return Dead();
    if (exchange->answer.has_value()) return *std::move(exchange->answer);
    return absl::DeadlineExceededError(what);
  }

  // Is there an orchestrator?
  bool alive() const { return alive_; }
  void set_alive(bool alive) { alive_ = alive; }
  int64_t calls() const { return calls_; }

 private:
  // Counts the call; lets happen what is planned for now. What is to become of the call, if it is
  // not carried out.
  std::optional<Fault> Begin(const std::string& what);
  absl::Duration Way();
  absl::Duration Late(absl::Duration deadline);
  static absl::Status Dead() { return absl::DataLossError("the orchestrator is dead"); }

  const Scenario& scenario_;
  Scheduler& scheduler_;
  History& history_;
  RandomStream random_;
  size_t next_fault_ = 0;
  int64_t calls_ = 0;
  bool alive_ = true;
};

}  // namespace palimpsest::simulation
