#include "tools/doctor/doctor.h"

#include <sys/mman.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "common/base/unique_fd.h"
#include "common/weights/durable_file.h"
#include "tools/doctor/needs.h"
#include "tools/doctor/probe.h"
#include "tools/launch/child_process.h"

namespace palimpsest::tools {
namespace {

constexpr const char* kRoles[] = {"env", "trainer", "inference", "orchestrator"};
constexpr int64_t kMaxSaid = 1 << 20;  // bytes

struct Answer {
  bool ok = false;
  std::string said;  // stdout and stderr
};

absl::StatusOr<Answer> Ask(const std::string& role, const DoctorOptions& options,
                           const std::string& action) {
  ASSIGN_OR_RETURN(const std::string program, ProgramBeside("palimpsest-" + role));
  std::vector<std::string> argv = {program, "--config", options.config, action};
  for (const std::string& set : options.sets) argv.insert(argv.end(), {"--set", set});
  const UniqueFd memory(memfd_create("doctor", MFD_CLOEXEC));
  const std::string path = absl::StrFormat("/proc/self/fd/%d", memory.get());
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(argv, path));
  Answer answer{.ok = child.Wait().ok()};
  ASSIGN_OR_RETURN(answer.said, weights::ReadSmallFile(path, kMaxSaid));
  return answer;
}

// What each daemon says of the configuration; what it understood goes to `printed`.
Finding AskDaemon(const std::string& role, const DoctorOptions& options,
                  std::map<std::string, Node>& printed) {
  Finding finding{"config " + role, Verdict::kFail, "", "mend the configuration as it says"};
  const absl::StatusOr<Answer> shown = Ask(role, options, "--print-config");
  if (!shown.ok()) {
    finding.saw = std::string(shown.status().message());
    finding.todo = "build palimpsest-" + role + " into the folder of this program";
    return finding;
  }
  if (shown->ok) {
    absl::StatusOr<Node> document = ParseYaml(shown->said, role);
    if (document.ok()) printed[role] = *std::move(document);
  }
  const absl::StatusOr<Answer> checked = Ask(role, options, "--check-config");
  finding.saw = checked.ok() ? checked->said : std::string(checked.status().message());
  absl::StripAsciiWhitespace(&finding.saw);
  if (checked.ok() && checked->ok) return {finding.name, Verdict::kPass, "accepted", ""};
  return finding;
}

// The model of a run that has begun is in its checkpoints.
Finding LookAtModel(const RunNeeds& needs, const absl::StatusOr<int64_t>& parameters) {
  std::error_code ignored;
  Finding finding{"model"};
  if (parameters.ok()) {
    finding.saw = absl::StrFormat("%d parameters", *parameters);
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
  const absl::StatusOr<int64_t> parameters = ParametersOf(needs.model);
  findings.push_back(LookAtModel(needs, parameters));
  for (Finding& f : ProbeFolder(needs.run, needs.lease)) findings.push_back(std::move(f));
  const absl::StatusOr<Space> space = MeasureSpace(needs.run.folder);
  if (space.ok()) {
    findings.push_back(JudgeSpace(DiskBytes(needs, parameters.value_or(0)), *space));
    findings.push_back(JudgeInodes(*space));
  }
  const Machine machine = MeasureMachine();
  findings.push_back(JudgeOpenFiles(machine));
  findings.push_back(JudgeProcesses(machine));
  findings.push_back(JudgeMemory(MemoryBytes(needs, parameters.value_or(0)), machine));
  findings.push_back(JudgeCores(needs, machine));
  for (Finding& f : ProbePorts(needs.places)) findings.push_back(std::move(f));
}

const char* Name(Verdict verdict) {
  if (verdict == Verdict::kPass) return "pass";
  return verdict == Verdict::kWarn ? "warn" : "FAIL";
}

}  // namespace

int RunDoctor(const DoctorOptions& options, std::ostream& out, std::ostream& table) {
  std::vector<Finding> findings;
  std::map<std::string, Node> printed;
  for (const char* role : kRoles) findings.push_back(AskDaemon(role, options, printed));
  const absl::StatusOr<RunNeeds> needs = NeedsOf(printed);
  if (needs.ok()) {
    LookAtMachine(*needs, findings);
  } else {
    findings.push_back({"machine", Verdict::kFail,
                        "not looked at: " + std::string(needs.status().message()),
                        "mend the configuration; are all programs of one build?"});
  }
  nlohmann::json json = {{"config", options.config}, {"checks", nlohmann::json::array()}};
  bool failed = false;
  for (const Finding& f : findings) {
    failed = failed || f.verdict == Verdict::kFail;
    table << absl::StrFormat("%s  %-24s %s\n", Name(f.verdict), f.name, f.saw);
    if (!f.todo.empty()) table << "      -> " << f.todo << '\n';
    json["checks"].push_back({{"name", f.name},
                              {"verdict", absl::AsciiStrToLower(Name(f.verdict))},
                              {"saw", f.saw},
                              {"todo", f.todo}});
  }
  out << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  return failed ? 1 : 0;
}

}  // namespace palimpsest::tools
