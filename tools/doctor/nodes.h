#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "tools/doctor/finding.h"

// `doctor --slurm`: the same look on every node of a job, and what they see of one another.
namespace palimpsest::tools {

// Where a node of the job stands among the others, as Slurm tells its task.
struct NodeOfJob {
  std::string name;
  int number = 0;  // in Slurm's order
  int count = 0;
  int64_t cpus = 0;  // of the job on it; 0 when Slurm does not tell
};
// FAILED_PRECONDITION outside of a task of a job.
absl::StatusOr<NodeOfJob> ThisNode();

// Of node `number` in a list as Slurm writes it ("16(x2),8": 16, 16, 8); 0 when it is not told.
int64_t CpusOf(const std::string& counts, int number);

// Where the findings of a node are left for the one who asked.
std::string FileOfNode(const std::string& meeting, const std::string& node);

// Runs `argv` once on each node of this Slurm job, with "--meeting FOLDER" behind it, FOLDER being
// made for that in `parent`, which all nodes share, and deleted afterwards. What each node has left
// in FileOfNode; a node that has left nothing has a finding of its own that says so.
absl::StatusOr<std::vector<Finding>> AskAllNodes(const std::vector<std::string>& argv,
                                                 const std::string& parent);

// By node: what passes on all nodes becomes one finding without a node, the rest stays as it is,
// in the order of its first node.
std::vector<Finding> Merge(const std::map<std::string, std::vector<Finding>>& of_nodes);

}  // namespace palimpsest::tools
