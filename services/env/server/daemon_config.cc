#include "services/env/server/daemon_config.h"

#include <set>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/status.h"

namespace palimpsest::env {

void Bind(Binder& b, RegistersOptions& c) {
  b.Field("lines", c.lines, "computed registers, [4, 22]");
  b.Field("asked_first", c.asked_first, "first computed register that far questions ask");
  b.Field("asked_last", c.asked_last, "last one, at least asked_first + 3 and below lines");
  b.Field("far_share", c.far_share, "chance of a far question, [0, 1]");
  b.Field("line_weight", c.line_weight, "share of the reward on exactly right lines, [0, 1]");
}

void Bind(Binder& b, CountdownOptions& c) {
  b.Field("min_numbers", c.min_numbers, "given numbers, at least 2");
  b.Field("max_numbers", c.max_numbers, "given numbers at most");
  b.Field("min_value", c.min_value, "of a given number, at least 1");
  b.Field("max_value", c.max_value, "of a given number at most");
  b.Field("min_target", c.min_target, "at least 1");
  b.Field("max_target", c.max_target, "at most");
  b.Field("max_response_bytes", c.max_response_bytes, "room for an answer, at least 64");
}

void Bind(Binder& b, TallyOptions& c) {
  b.Field("instructions", c.instructions, "each a turn, [2, 64]; one more turn answers");
  b.Field("registers", c.registers, "that are kept, [2, 9]");
  b.Field("line_weight", c.line_weight, "share of the reward on right results, [0, 1]");
}

void Bind(Binder& b, EnvSection& c) {
  BindListen(b, c.serve);
  b.Field("rank", c.rank, "which of the run's environment daemons this is");
  b.Section("registers", c.tasks.registers, "the task registers");
  b.Section("countdown", c.tasks.countdown, "the task countdown");
  b.Section("tally", c.tasks.tally, "the task tally");
  b.Field("workers", c.workers, "tasks in Python, each worker with processes of its own");
}

void Bind(Binder& b, EnvDaemonConfig& c) {
  b.Section("run", c.run);
  b.Section("tls", c.tls, "certificates of the run");
  b.Section("env", c.env);
}

absl::Status Validate(const EnvDaemonConfig& c) {
  RETURN_IF_ERROR(Validate(c.run));
  if (c.env.rank < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("env.rank=%d is negative", c.env.rank));
  }
  RETURN_IF_ERROR(Validate(c.tls, Role::kEnv, SystemClock().Now()));
  RETURN_IF_ERROR(ReadListen("env", c.env.serve, c.tls).status());
  const absl::Status tasks = BuiltInEnvironments(c.env.tasks).status();
  if (!tasks.ok()) return absl::InvalidArgumentError("env." + std::string(tasks.message()));
  std::set<std::string> names;
  for (size_t i = 0; i < c.env.workers.size(); ++i) {
    const std::string field = absl::StrFormat("env.workers[%d]", i);
    RETURN_IF_ERROR(Validate(c.env.workers[i], field));
    if (!names.insert(c.env.workers[i].name).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s.name=%s occurs twice", field, c.env.workers[i].name));
    }
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::env
