#include "tools/doctor/judge.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {
namespace {

// What four daemons open and start with their defaults, and what they could not even begin with.
constexpr int64_t kOpenFiles = 1024, kLeastOpenFiles = 256;
constexpr int64_t kProcesses = 1024, kLeastProcesses = 256;
constexpr int64_t kInodes = 10000, kLeastInodes = 500;

std::string MiB(int64_t bytes) { return absl::StrFormat("%d MiB", bytes >> 20); }

// Fails below `least`, warns below `enough`.
Verdict Grade(int64_t value, int64_t least, int64_t enough) {
  if (value < least) return Verdict::kFail;
  return value < enough ? Verdict::kWarn : Verdict::kPass;
}

Finding Graded(const std::string& name, Verdict verdict, std::string saw, const std::string& todo) {
  return {name, verdict, std::move(saw), verdict == Verdict::kPass ? "" : todo};
}

}  // namespace

Finding JudgeSpace(int64_t needed_bytes, const Space& space) {
  return Graded("space", Grade(space.bytes, needed_bytes, 2 * needed_bytes),
                MiB(space.bytes) + " free, store and checkpoints take " + MiB(needed_bytes),
                "free space, set run.folder elsewhere, or lower trainer.keep_checkpoints and "
                "trainer.keep_versions");
}

Finding JudgeInodes(const Space& space) {
  return Graded("inodes", Grade(space.inodes, kLeastInodes, kInodes),
                absl::StrFormat("%d free", space.inodes),
                "delete files on the file system of run.folder, or set it elsewhere");
}

Finding JudgeOpenFiles(const Machine& machine) {
  return Graded("open_files", Grade(machine.open_files, kLeastOpenFiles, kOpenFiles),
                absl::StrFormat("at most %d in a process", machine.open_files),
                absl::StrFormat("ulimit -n %d", kOpenFiles));
}

Finding JudgeProcesses(const Machine& machine) {
  return Graded("processes", Grade(machine.processes, kLeastProcesses, kProcesses),
                absl::StrFormat("at most %d processes and threads", machine.processes),
                absl::StrFormat("ulimit -u %d", kProcesses));
}

Finding JudgeMemory(int64_t needed_bytes, const Machine& machine) {
  return Graded("memory",
                Grade(machine.memory_bytes, needed_bytes, needed_bytes + needed_bytes / 2),
                MiB(machine.memory_bytes) + " available, weights, optimiser and KV pool take " +
                    MiB(needed_bytes),
                "lower inference.kv_pool_bytes, or end what else holds memory");
}

Finding JudgeCores(const RunNeeds& needs, const Machine& machine) {
  const int64_t most = std::max(needs.inference_threads, needs.trainer_threads);
  return Graded("cores", Grade(machine.cores, 1, most),
                absl::StrFormat("%d, inference.threads=%d, trainer.threads=%d", machine.cores,
                                needs.inference_threads, needs.trainer_threads),
                "no more threads than cores: they wait for each other");
}

Finding JudgeCpus(const RunNeeds& needs) {
  return Graded("cpus", needs.cpus > needs.cpus_of_job ? Verdict::kFail : Verdict::kPass,
                absl::StrFormat("placement gives %d to daemons of this node, the job has %d there",
                                needs.cpus, needs.cpus_of_job),
                "lower placement.<role>.cpus, or ask for more by sbatch --cpus-per-task or "
                "--exclusive: srun waits for ever for what the job does not have");
}

Finding JudgeStop(const RunNeeds& needs) {
  const absl::Duration orchestrators = needs.stop_grace * kLeadersShare;
  return Graded(
      "stop_grace", orchestrators > needs.drain_grace ? Verdict::kPass : Verdict::kWarn,
      absl::StrFormat("placement.stop_grace=%s, of which the orchestrator has %s; "
                      "orchestrator.drain_grace=%s",
                      absl::FormatDuration(needs.stop_grace), absl::FormatDuration(orchestrators),
                      absl::FormatDuration(needs.drain_grace)),
      "raise placement.stop_grace or lower orchestrator.drain_grace: at a stop the "
      "orchestrator is killed before its rollouts are over");
}

Finding JudgeClock(absl::Time now, absl::Time file, absl::Duration lease) {
  constexpr absl::Duration kSmall = absl::Seconds(2);  // file systems count in seconds, some in two
  const absl::Duration apart = absl::AbsDuration(now - file);
  Verdict verdict = apart > lease / 2 ? Verdict::kFail
                    : apart > kSmall  ? Verdict::kWarn
                                      : Verdict::kPass;
  if (now < absl::FromCivil(absl::CivilYear(2025), absl::UTCTimeZone())) verdict = Verdict::kFail;
  return Graded(
      "clock", verdict,
      absl::StrFormat("%s UTC, run.folder's file system %.1f s apart",
                      absl::FormatTime("%Y-%m-%d %H:%M:%S", now, absl::UTCTimeZone()),
                      absl::ToDoubleSeconds(apart)),
      "run NTP on this machine and on the file server: leases in the store compare clocks");
}

std::vector<Finding> JudgeAcquaintance(const Acquaintance& seen, absl::Duration lease) {
  constexpr absl::Duration kFar = absl::Milliseconds(20), kLate = absl::Seconds(2);
  constexpr absl::Duration kApart = absl::Seconds(2);
  const auto name = [&](const char* what) { return absl::StrFormat("%s to %s", what, seen.node); };
  if (!seen.reached.ok()) {
    return {{name("network"), Verdict::kFail, std::string(seen.reached.message()),
             "let the nodes reach each other by these names on any port, or name another network "
             "by <role>.advertise"}};
  }
  const auto milliseconds = [](absl::Duration d) {
    return absl::StrFormat("%.1f ms", absl::ToDoubleMilliseconds(d));
  };
  const absl::Duration apart = absl::AbsDuration(seen.clock_ahead);
  const bool never = seen.visible_after == absl::InfiniteDuration();
  return {
      Graded(name("network"), seen.round_trip > kFar ? Verdict::kWarn : Verdict::kPass,
             "round trip " + milliseconds(seen.round_trip),
             "a nearer network between the nodes: each token of a stream takes this way"),
      Graded(name("clock"),
             apart > lease / 2 ? Verdict::kFail
             : apart > kApart  ? Verdict::kWarn
                               : Verdict::kPass,
             milliseconds(apart) + " apart",
             "run NTP on all nodes: leases in the store compare clocks"),
      Graded(name("visibility"),
             never                        ? Verdict::kFail
             : seen.visible_after > kLate ? Verdict::kWarn
                                          : Verdict::kPass,
             never ? "its new file was never listed here"
                   : "its new file is listed after " + milliseconds(seen.visible_after),
             never ? "put run.folder on a file system that all nodes share"
                   : "new weights wait for it: mount with shorter attribute caching (actimeo)")};
}

std::vector<Finding> JudgeGpus(const RunNeeds& needs, const Gpus& gpus) {
  const auto have = static_cast<int64_t>(gpus.names.size());
  Finding devices{"gpu", Verdict::kPass, "none here"};
  if (have > 0) {
    devices.saw = absl::StrFormat("%d: %s, driver %s", have, gpus.names.front(), gpus.driver);
  }
  if (!gpus.problem.empty()) {
    devices = {"gpu", Verdict::kFail, gpus.problem, "mend the driver: nvidia-smi must list them"};
  } else if (have < needs.gpus) {
    devices.verdict = Verdict::kFail;
    devices.saw += absl::StrFormat("; placement asks for %d", needs.gpus);
    devices.todo = "lower placement.<role>.gpus, or take a node that has them";
  }
  const bool wanted = needs.gpus > 0 && needs.ranks > 1 && gpus.nccl.empty();
  return {devices, Graded("nccl", wanted ? Verdict::kWarn : Verdict::kPass,
                          gpus.nccl.empty() ? "none here" : gpus.nccl,
                          "install libnccl2: ranks of the trainer on GPUs speak by it")};
}

}  // namespace palimpsest::tools
