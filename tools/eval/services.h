#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/rpc/tls.h"
#include "tools/eval/asker.h"
#include "tools/eval/model_facts.h"

namespace palimpsest::tools::eval {

struct TaskFacts {
  std::string name;
  bool multi_turn = false;
  int64_t train_size = 0, sft_size = 0, heldout_size = 0;  // prompts; 0: as many as asked for
};

// The tasks of the plan are there, have that many prompts, and turns as the policies need them;
// INVALID_ARGUMENT naming the one that is not so.
absl::Status CheckTasks(const Plan& plan, const std::vector<TaskFacts>& tasks);

// An inference and an environment daemon.
class Services {
 public:
  virtual ~Services() = default;
  // After the handshake, in which either is waited for until it serves, until `deadline`.
  // FAILED_PRECONDITION: another contract revision, or not what the address was given for.
  virtual absl::Status Meet(absl::Time deadline, Clock& clock) = 0;
  // After Meet.
  virtual const ModelFacts& model() const = 0;
  virtual const std::vector<TaskFacts>& tasks() const = 0;
  // Once. Refuses answers of other weights than those of model(). `plan` and this outlive it.
  virtual std::unique_ptr<Asker> MakeAsker(const Plan& plan) = 0;
};

// Where a daemon is now, "host:port". Asked again after a call that found nobody: one that was
// started again may be elsewhere. Any thread.
using Where = std::function<absl::StatusOr<std::string>()>;

// A daemon and the client's TLS with it.
struct Place {
  Where where;
  Tls tls;
};
std::unique_ptr<Services> ConnectServices(Place server, Place env);

}  // namespace palimpsest::tools::eval
