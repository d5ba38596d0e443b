#include "tools/doctor/doctor.h"

#include <sys/mman.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/unique_fd.h"
#include "common/config/flags.h"
#include "common/weights/durable_file.h"
#include "tools/doctor/finding_json.h"
#include "tools/doctor/meeting.h"
#include "tools/doctor/needs.h"
#include "tools/doctor/nodes.h"
#include "tools/doctor/probe.h"
#include "tools/launch/child_process.h"
#include "tools/launch/daemon_sets.h"
#include "tools/launch/daemon_spec.h"

namespace palimpsest::tools {

// What doctor itself reads of the YAML; each daemon judges its own part.
struct OwnConfig {
  PlacementSection placement;
};
void Bind(Binder& b, OwnConfig& c) { b.Section("placement", c.placement); }

namespace {

constexpr int64_t kMaxSaid = 1 << 20;  // bytes

struct Answer {
  bool ok = false;
  std::string said;  // stdout and stderr
};

// `argv`: of the daemon, without what it is to do.
absl::StatusOr<Answer> Ask(std::vector<std::string> argv, const std::string& action) {
  argv.push_back(action);
  const UniqueFd memory(memfd_create("doctor", MFD_CLOEXEC));
  const std::string path = absl::StrFormat("/proc/self/fd/%d", memory.get());
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(argv, path));
  Answer answer{.ok = child.Wait().ok()};
  ASSIGN_OR_RETURN(answer.said, weights::ReadSmallFile(path, kMaxSaid));
  return answer;
}

// What the role's daemon says of the configuration that launch would give it, on `node` of a job or
// on one machine (null); what it understood goes to `printed`.
Finding AskDaemon(const std::string& role, const DoctorOptions& options,
                  const PlacementSection& placement, const std::string* node,
                  std::map<std::string, Node>& printed) {
  Finding finding{"config " + role, Verdict::kFail, "", "mend the configuration as it says"};
  std::vector<std::string> sets = SetsOf(role, 0, placement, node);
  sets.insert(sets.end(), options.sets.begin(), options.sets.end());
  const absl::StatusOr<DaemonSpec> spec = MakeSpec(role, 0, "", options.config, sets);
  const absl::StatusOr<Answer> shown =
      spec.ok() ? Ask(spec->argv, "--print-config") : spec.status();
  if (!shown.ok()) {
    finding.saw = std::string(shown.status().message());
    finding.todo = "build " + ProgramOf(role) + " into the folder of this program";
    return finding;
  }
  if (shown->ok) {
    absl::StatusOr<Node> document = ParseYaml(shown->said, role);
    if (document.ok()) printed[role] = *std::move(document);
  }
  const absl::StatusOr<Answer> checked = Ask(spec->argv, "--check-config");
  finding.saw = checked.ok() ? checked->said : std::string(checked.status().message());
  absl::StripAsciiWhitespace(&finding.saw);
  if (checked.ok() && checked->ok) return {finding.name, Verdict::kPass, "accepted", ""};
  return finding;
}

// The model of a run that has begun is in its checkpoints.
Finding LookAtModel(const RunNeeds& needs, const absl::StatusOr<ParameterCount>& parameters) {
  std::error_code ignored;
  Finding finding{"model"};
  if (parameters.ok()) {
    finding.saw = absl::StrFormat("%d parameters", parameters->all);
    const std::string tokenizer = needs.model.folder + "/tokenizer.json";
    if (needs.model.folder.empty() || std::filesystem::exists(tokenizer, ignored)) return finding;
    finding.saw = tokenizer + " is not there";
  } else {
    finding.saw = absl::StrFormat("model.folder=%s: %s", needs.model.folder,
                                  std::string(parameters.status().message()));
  }
  const bool begun = std::filesystem::exists(needs.run.CheckpointFolder(), ignored);
  finding.verdict = begun ? Verdict::kWarn : Verdict::kFail;
  finding.todo = "set model.folder to a Hugging Face folder with safetensors and tokenizer.json";
  return finding;
}

void LookAtMachine(const RunNeeds& needs, std::vector<Finding>& findings) {
  const auto add = [&findings](std::vector<Finding> more) {
    for (Finding& f : more) findings.push_back(std::move(f));
  };
  const absl::StatusOr<ParameterCount> counted = ParametersOf(needs.model);
  const ParameterCount parameters = counted.value_or(ParameterCount{});
  findings.push_back(LookAtModel(needs, counted));
  add(ProbeCertificates(needs, SystemClock().Now()));
  add(ProbeFolder(needs.run, needs.lease));
  const absl::StatusOr<Space> space = MeasureSpace(needs.run.folder);
  if (space.ok()) {
    findings.push_back(JudgeSpace(DiskBytes(needs, parameters.all), *space));
    findings.push_back(JudgeInodes(*space));
  }
  const Machine machine = MeasureMachine();
  findings.push_back(JudgeOpenFiles(machine));
  findings.push_back(JudgeProcesses(machine));
  findings.push_back(JudgeMemory(MemoryBytes(needs, parameters), machine));
  findings.push_back(JudgeCores(needs, machine));
  if (needs.cpus_of_job > 0) findings.push_back(JudgeCpus(needs));
  findings.push_back(JudgeStop(needs));
  add(JudgeGpus(needs, MeasureGpus()));
  add(ProbePorts(needs.places));
}

absl::StatusOr<PlacementSection> ReadPlacement(const ParsedFlags& flags) {
  constexpr std::string_view kOthers[] = {"run",     "model",        "inference", "router",
                                          "trainer", "orchestrator", "env",       "tls"};
  OwnConfig own;
  RETURN_IF_ERROR(LoadConfig(flags, kOthers, own));
  RETURN_IF_ERROR(WithPlace(Validate(own.placement), flags));
  return own.placement;
}

// What launch says of the placement on this machine, or in the job that `node` is of.
absl::Status CheckPlacement(const PlacementSection& placement, bool slurm,
                            const std::optional<NodeOfJob>& node) {
  if (node.has_value()) return ValidateNodes(placement, static_cast<size_t>(node->count));
  return slurm ? absl::OkStatus() : ValidateWithoutSlurm(placement);
}

absl::StatusOr<RunNeeds> ReadNeeds(const DoctorOptions& options, std::vector<Finding>& findings,
                                   const std::optional<NodeOfJob>& node) {
  const ParsedFlags flags{.config_file = options.config, .sets = options.sets};
  const absl::StatusOr<PlacementSection> read = ReadPlacement(flags);
  const PlacementSection placement = read.value_or(PlacementSection());
  std::map<std::string, Node> printed;
  for (const std::string& role : RolesOf(placement)) {
    const std::string* const name = node.has_value() ? &node->name : nullptr;
    findings.push_back(AskDaemon(role, options, placement, name, printed));
  }
  const absl::Status sound =
      read.ok() ? WithPlace(CheckPlacement(placement, options.slurm, node), flags) : read.status();
  findings.push_back({"config placement", sound.ok() ? Verdict::kPass : Verdict::kFail,
                      sound.ok() ? "accepted" : std::string(sound.message()),
                      sound.ok() ? "" : "mend the configuration as it says"});
  RETURN_IF_ERROR(read.status());
  ASSIGN_OR_RETURN(
      RunNeeds needs,
      NeedsOf(printed, placement, node.has_value() ? std::optional(node->number) : std::nullopt));
  if (node.has_value()) needs.cpus_of_job = node->cpus;
  return needs;
}

Finding NotLookedAt(const absl::Status& why) {
  return {"machine", Verdict::kFail, "not looked at: " + std::string(why.message()),
          "mend the configuration; are all programs of one build?"};
}

// All that can be seen of one machine by itself.
std::vector<Finding> LookHere(const DoctorOptions& options, const std::optional<NodeOfJob>& node,
                              absl::StatusOr<RunNeeds>& needs) {
  std::vector<Finding> findings;
  needs = ReadNeeds(options, findings, node);
  if (needs.ok()) {
    LookAtMachine(*needs, findings);
  } else {
    findings.push_back(NotLookedAt(needs.status()));
  }
  return findings;
}

// One node of a job: it looks at itself and at the others, and leaves what it saw.
absl::StatusOr<std::vector<Finding>> Attend(const DoctorOptions& options) {
  ASSIGN_OR_RETURN(const NodeOfJob self, ThisNode());
  absl::StatusOr<RunNeeds> needs = absl::UnknownError("not read");
  std::vector<Finding> findings = LookHere(options, self, needs);
  const auto met =
      Meet({.folder = options.meeting, .node = self.name, .nodes = self.count}, SystemClock());
  if (!met.ok()) {
    findings.push_back({"meeting", Verdict::kFail, std::string(met.status().message()),
                        "put run.folder on a file system that all nodes share"});
  }
  for (const Acquaintance& other : met.value_or(std::vector<Acquaintance>())) {
    const absl::Duration lease = needs.ok() ? needs->lease : absl::Minutes(5);
    for (Finding& f : JudgeAcquaintance(other, lease)) findings.push_back(std::move(f));
  }
  RETURN_IF_ERROR(
      weights::WriteFileDurably(FileOfNode(options.meeting, self.name), ToJson(findings)));
  return findings;
}

// From the outside: the same command, once on each node.
absl::StatusOr<std::vector<Finding>> LookAtNodes(const DoctorOptions& options) {
  ASSIGN_OR_RETURN(std::string self, ProgramBeside("palimpsest"));
  std::vector<std::string> argv = {std::move(self), "doctor", "--config", options.config};
  for (const std::string& set : options.sets) argv.insert(argv.end(), {"--set", set});
  std::vector<Finding> findings;
  const absl::StatusOr<RunNeeds> needs = ReadNeeds(options, findings, std::nullopt);
  if (needs.ok()) return AskAllNodes(argv, NearestFolder(needs->run.folder));
  findings.push_back(NotLookedAt(needs.status()));
  return findings;
}

int Tell(const std::string& config, const std::vector<Finding>& findings, std::ostream& out,
         std::ostream& table) {
  bool failed = false;
  for (const Finding& f : findings) {
    const bool fails = f.verdict == Verdict::kFail;
    failed = failed || fails;
    const std::string name = f.node.empty() ? f.name : f.node + ": " + f.name;
    table << absl::StrFormat("%s  %-24s %s\n", fails ? "FAIL" : Name(f.verdict), name, f.saw);
    if (!f.todo.empty()) table << "      -> " << f.todo << '\n';
  }
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;  // a path is any bytes
  out << "{\"config\":" << nlohmann::json(config).dump(-1, ' ', false, kReplace)
      << ",\"checks\":" << ToJson(findings) << '}' << std::endl;
  return failed ? 1 : 0;
}

}  // namespace

int RunDoctor(const DoctorOptions& options, std::ostream& out, std::ostream& table) {
  if (!options.meeting.empty()) {
    const auto findings = Attend(options);
    if (findings.ok()) return 0;  // they are told by the one who asked
    table << "palimpsest doctor: " << findings.status().ToString() << '\n';
    return 1;
  }
  if (!options.slurm) {
    absl::StatusOr<RunNeeds> needs = absl::UnknownError("not read");
    return Tell(options.config, LookHere(options, std::nullopt, needs), out, table);
  }
  const auto findings = LookAtNodes(options);
  if (findings.ok()) return Tell(options.config, *findings, out, table);
  return Tell(
      options.config,
      {{"job", Verdict::kFail, std::string(findings.status().message()),
        "run it inside of a Slurm job: salloc --nodes=2 --exclusive palimpsest doctor --slurm .."}},
      out, table);
}

}  // namespace palimpsest::tools
