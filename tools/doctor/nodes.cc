#include "tools/doctor/nodes.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/weights/durable_file.h"
#include "tools/doctor/finding_json.h"
#include "tools/launch/child_process.h"
#include "tools/launch/slurm_place.h"

namespace palimpsest::tools {
namespace {

constexpr int64_t kMaxFindings = 4 << 20;  // bytes

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<Finding> FindingsOf(const std::string& meeting, const std::string& node,
                                const Ending& ended) {
  const auto text = weights::ReadSmallFile(FileOfNode(meeting, node), kMaxFindings);
  absl::StatusOr<std::vector<Finding>> findings =
      text.ok() ? FindingsFromJson(*text) : text.status();
  if (!findings.ok()) {
    findings = std::vector<Finding>{
        {"node", Verdict::kFail,
         absl::StrFormat("it has told nothing (srun: %s; %s)", ended.Text(),
                         std::string(findings.status().message())),
         "srun must start this program there, and run.folder be shared; see srun's words above"}};
  }
  for (Finding& finding : *findings) finding.node = node;
  return *std::move(findings);
}

}  // namespace

absl::StatusOr<NodeOfJob> ThisNode() {
  NodeOfJob node{.name = Environment("SLURMD_NODENAME")};
  if (node.name.empty() || !absl::SimpleAtoi(Environment("SLURM_NODEID"), &node.number) ||
      !absl::SimpleAtoi(Environment("SLURM_NNODES"), &node.count)) {
    return absl::FailedPreconditionError(
        "--meeting is for the tasks of `palimpsest doctor --slurm`: SLURMD_NODENAME, SLURM_NODEID "
        "and SLURM_NNODES say which one this is");
  }
  node.cpus = CpusOf(Environment("SLURM_JOB_CPUS_PER_NODE"), node.number);
  return node;
}

int64_t CpusOf(const std::string& counts, int number) {
  const std::vector<std::string> parts = absl::StrSplit(counts, ',');
  for (const std::string& part : parts) {
    const std::pair<std::string, std::string> split = absl::StrSplit(part, "(x");
    int64_t cpus = 0;
    int nodes = 1;
    if (!absl::SimpleAtoi(split.first, &cpus)) return 0;
    if (!split.second.empty() && !absl::SimpleAtoi(absl::StripSuffix(split.second, ")"), &nodes)) {
      return 0;
    }
    if (number < nodes) return cpus;
    number -= nodes;
  }
  return 0;
}

std::string FileOfNode(const std::string& meeting, const std::string& node) {
  return absl::StrFormat("%s/%s.findings", meeting, node);
}

absl::StatusOr<std::vector<Finding>> AskAllNodes(const std::vector<std::string>& argv,
                                                 const std::string& parent) {
  ASSIGN_OR_RETURN(const auto job, SlurmPlace::OfThisJob());
  const std::string meeting = parent + "/" + weights::TemporaryName();
  if (mkdir(meeting.c_str(), 0755) != 0) return weights::IoError(errno, "make", meeting);
  std::vector<std::string> command = job->OnEachNode(argv);
  command.insert(command.end(), {"--meeting", meeting});
  absl::StatusOr<ChildProcess> srun = ChildProcess::Start(command, "");
  std::map<std::string, std::vector<Finding>> of_nodes;
  if (srun.ok()) {
    const Ending ended = srun->Wait();
    for (const std::string& node : job->nodes()) of_nodes[node] = FindingsOf(meeting, node, ended);
  }
  std::error_code ignored;
  std::filesystem::remove_all(meeting, ignored);
  RETURN_IF_ERROR(srun.status());
  return Merge(of_nodes);
}

std::vector<Finding> Merge(const std::map<std::string, std::vector<Finding>>& of_nodes) {
  std::map<std::string, size_t> passes;
  std::vector<std::string> order;
  for (const auto& [node, findings] : of_nodes) {
    for (const Finding& finding : findings) {
      if (std::find(order.begin(), order.end(), finding.name) == order.end()) {
        order.push_back(finding.name);
      }
      passes[finding.name] += finding.verdict == Verdict::kPass;
    }
  }
  std::vector<Finding> merged;
  for (const std::string& name : order) {
    const bool everywhere = passes[name] == of_nodes.size();
    for (const auto& [node, findings] : of_nodes) {
      const auto found = std::find_if(findings.begin(), findings.end(),
                                      [&](const Finding& f) { return f.name == name; });
      if (found == findings.end()) continue;
      merged.push_back(*found);
      if (!everywhere) continue;
      merged.back().node.clear();
      break;
    }
  }
  return merged;
}

}  // namespace palimpsest::tools
