#include "tools/doctor/needs.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/config/binder.h"
#include "common/config/scalar.h"
#include "common/weights/checkpoint_reader.h"
#include "tools/launch/daemon_spec.h"

namespace palimpsest::tools {
namespace {

constexpr int64_t kBytesOfFloat = 4;

// "inference.http.listen" of what the daemon of that role printed.
absl::StatusOr<Node> At(const std::map<std::string, Node>& printed, const std::string& role,
                        const std::string& path) {
  const auto document = printed.find(role);
  const Node* node = document == printed.end() ? nullptr : &document->second;
  for (const auto part : absl::StrSplit(path.c_str(), '.')) {
    if (node != nullptr) node = node->Find(std::string(part));
  }
  if (node != nullptr) return *node;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s --print-config has no %s", ProgramOf(role), path));
}

// Of the first `processes` of the role.
int64_t CountOn(const RolePlacement& role, int processes, std::optional<int> node) {
  if (!node.has_value()) return processes;
  int64_t here = 0;
  for (int i = 0; i < processes; ++i) {
    here += role.nodes[static_cast<size_t>(i) % role.nodes.size()] == *node;
  }
  return here;
}

int64_t ProcessesOn(const RolePlacement& role, std::optional<int> node) {
  return CountOn(role, role.processes(), node);
}

absl::Status TakeCount(const std::map<std::string, Node>& printed, const std::string& role,
                       const std::string& path, int64_t& value) {
  ASSIGN_OR_RETURN(const Node node, At(printed, role, path));
  ASSIGN_OR_RETURN(value, ReadInt(node, path, 0, std::numeric_limits<int64_t>::max()));
  return absl::OkStatus();
}

absl::Status TakePlace(const std::map<std::string, Node>& printed, const std::string& role,
                       const std::string& path, int64_t daemons, std::vector<ListenPlace>& places) {
  ASSIGN_OR_RETURN(const Node node, At(printed, role, path));
  ASSIGN_OR_RETURN(const std::string text, ReadString(node, path));
  if (text.empty()) return absl::OkStatus();  // not asked for
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(path, text));
  if (at.port != 0) places.push_back({path, at, daemons});
  return absl::OkStatus();
}

absl::Status TakeTime(const std::map<std::string, Node>& printed, const std::string& role,
                      const std::string& path, absl::Duration& value) {
  ASSIGN_OR_RETURN(const Node node, At(printed, role, path));
  ASSIGN_OR_RETURN(value, ReadDuration(node, path));
  return absl::OkStatus();
}

// The section that says where the role's daemon listens: an inference daemon may be a router.
absl::StatusOr<std::string> SectionOf(const std::map<std::string, Node>& printed,
                                      const std::string& role) {
  if (role != "inference" && role != "router") return role;
  ASSIGN_OR_RETURN(const Node node, At(printed, role, "router.enabled"));
  ASSIGN_OR_RETURN(const bool routes, ReadBool(node, "router.enabled"));
  return routes ? "router" : "inference";
}

// What the trainer says of itself and of the run.
absl::Status TakeTrainer(const std::map<std::string, Node>& printed,
                         const PlacementSection& placement, RunNeeds& needs) {
  ASSIGN_OR_RETURN(const Node weights, At(printed, "trainer", "trainer.weights"));
  ASSIGN_OR_RETURN(const std::string held, ReadString(weights, "trainer.weights"));
  if (held == "sharded") needs.slices = placement.trainer.ranks;
  ASSIGN_OR_RETURN(const Node tls, At(printed, "trainer", "tls"));
  RETURN_IF_ERROR(Codec<TlsSection>::Read(tls, "tls", needs.tls));
  constexpr char kPull[] = "trainer.loss.reference_kl.coefficient";
  ASSIGN_OR_RETURN(const Node pull, At(printed, "trainer", kPull));
  ASSIGN_OR_RETURN(const double coefficient, ReadDouble(pull, kPull));
  needs.reference = coefficient > 0;
  ASSIGN_OR_RETURN(const Node run, At(printed, "trainer", "run"));
  RETURN_IF_ERROR(Codec<RunSection>::Read(run, "run", needs.run));
  ASSIGN_OR_RETURN(const Node model, At(printed, "trainer", "model"));
  RETURN_IF_ERROR(Codec<ModelSection>::Read(model, "model", needs.model));
  RETURN_IF_ERROR(TakeCount(printed, "trainer", "trainer.keep_versions", needs.keep_versions));
  RETURN_IF_ERROR(
      TakeCount(printed, "trainer", "trainer.keep_checkpoints", needs.keep_checkpoints));
  return TakeCount(printed, "trainer", "trainer.threads", needs.trainer_threads);
}

}  // namespace

std::vector<std::string> RolesOf(const PlacementSection& placement) {
  std::vector<std::string> roles;
  for (const std::string_view role : kRoles) {
    if (placement.Of(role).processes() > 0) roles.emplace_back(role);
  }
  return roles;
}

absl::StatusOr<RunNeeds> NeedsOf(const std::map<std::string, Node>& printed,
                                 const PlacementSection& placement, std::optional<int> node) {
  RunNeeds needs;
  needs.stop_grace = placement.stop_grace;
  needs.ranks = ProcessesOn(placement.trainer, node);
  needs.replicas = ProcessesOn(placement.inference, node);
  for (const std::string_view role : kRoles) {
    const RolePlacement& own = placement.Of(role);
    const int64_t here = ProcessesOn(own, node);
    needs.gpus += own.gpus * here;
    needs.cpus += std::max(own.cpus, own.gpus > 0 ? 1 : 0) * here;
  }
  RETURN_IF_ERROR(TakeTrainer(printed, placement, needs));
  RETURN_IF_ERROR(TakeCount(printed, "inference", "inference.threads", needs.inference_threads));
  ASSIGN_OR_RETURN(const Node pool, At(printed, "inference", "inference.kv_pool_bytes"));
  ASSIGN_OR_RETURN(needs.kv_pool_bytes, ReadBytes(pool, "inference.kv_pool_bytes"));
  RETURN_IF_ERROR(TakeTime(printed, "inference", "inference.lease", needs.lease));
  RETURN_IF_ERROR(TakeTime(printed, "orchestrator", "orchestrator.drain_grace", needs.drain_grace));
  for (const std::string& role : RolesOf(placement)) {
    ASSIGN_OR_RETURN(const std::string section, SectionOf(printed, role));
    needs.router = needs.router || section == "router";
    const RolePlacement& own = placement.Of(role);
    const int64_t here = CountOn(own, own.replicas, node);  // of ranks, only the first listens
    if (here == 0) continue;
    RETURN_IF_ERROR(TakePlace(printed, role, section + ".listen", here, needs.places));
    RETURN_IF_ERROR(TakePlace(printed, role, section + ".metrics", here, needs.places));
    if (section != "inference" && section != "router") continue;
    RETURN_IF_ERROR(TakePlace(printed, role, section + ".http.listen", here, needs.places));
  }
  return needs;
}

absl::StatusOr<ParameterCount> ParametersOf(const ModelSection& model) {
  if (!model.folder.empty()) {
    ASSIGN_OR_RETURN(const auto reader, weights::CheckpointReader::Open(model.folder));
    ParameterCount count;
    for (const std::string& name : reader->names()) {
      ASSIGN_OR_RETURN(const weights::TensorView tensor, reader->Find(name));
      const auto n = static_cast<int64_t>(tensor.bytes.size()) / weights::SizeOf(tensor.type);
      count.all += n;
      if (name != "model.norm.weight") count.sliced += n;
    }
    return count;
  }
  const InitModel& m = model.init;
  const int64_t vocabulary = 256 + static_cast<int64_t>(m.special_tokens.size());
  const int64_t hidden = m.hidden, queries = int64_t{m.heads} * m.head_dim;
  const int64_t keys = int64_t{m.kv_heads} * m.head_dim;
  const int64_t layer =
      hidden * (2 * queries + 2 * keys + 3 * int64_t{m.intermediate} + 2) + 2 * m.head_dim;
  const int64_t ends = vocabulary * hidden * (m.tied ? 1 : 2);
  const int64_t sliced = m.layers * layer + ends;
  return ParameterCount{.all = sliced + hidden, .sliced = sliced};
}

int64_t DiskBytes(const RunNeeds& needs, int64_t parameters) {
  constexpr int64_t kRest = 64 << 20;  // ledger, logs, report
  return parameters * kBytesOfFloat *
             ((needs.keep_versions + 1) + 3 * (needs.keep_checkpoints + 1)) +
         kRest;
}

int64_t MemoryBytes(const RunNeeds& needs, const ParameterCount& parameters) {
  const int64_t slice = (parameters.sliced + needs.slices - 1) / needs.slices;
  const int64_t held = parameters.all - parameters.sliced + slice;
  const int64_t rank = 2 * held + (needs.reference ? parameters.all : 0);
  // Moments, and the copy of them and of the weights that becomes a checkpoint beside the steps.
  const int64_t together = needs.ranks > 0 ? 2 + 3 : 0;
  const int64_t floats = needs.ranks * rank + (together + needs.replicas) * parameters.all;
  return floats * kBytesOfFloat + needs.replicas * needs.kv_pool_bytes;
}

}  // namespace palimpsest::tools
