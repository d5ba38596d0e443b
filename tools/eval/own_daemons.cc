#include "tools/eval/own_daemons.h"

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_format.h"
#include "common/rpc/address.h"
#include "tools/launch/publish_folder.h"
#include "tools/launch/run_folder.h"
#include "tools/launch/shared_cores.h"

namespace palimpsest::tools::eval {
namespace {

std::vector<std::string> SetsOf(const OwnDaemonsOptions& options, const std::string& section) {
  std::vector<std::string> sets = {TextSet("run.folder", options.folder),
                                   section + ".listen=127.0.0.1:0",
                                   section + ".metrics=127.0.0.1:0", "tls.folder=''"};
  for (const std::string& set : options.sets) {
    if (set.starts_with(section + ".")) sets.push_back(set);
  }
  return sets;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OwnDaemons>> OwnDaemons::Start(const OwnDaemonsOptions& options) {
  ShareCores();
  const RunSection run{.name = "eval", .folder = options.folder};
  std::vector<DaemonSpec> specs;
  if (!options.model.empty()) {
    std::vector<std::string> sets = SetsOf(options, "inference");
    sets.push_back(TextSet("run.name", run.name));
    // The weights stand in the store before it starts.
    sets.push_back("inference.first_version_wait=1s");
    ASSIGN_OR_RETURN(specs.emplace_back(), MakeSpec("inference", 0, run.folder, "/dev/null", sets));
  }
  if (!options.config.empty()) {
    ASSIGN_OR_RETURN(specs.emplace_back(),
                     MakeSpec("env", 0, run.folder, options.config, SetsOf(options, "env")));
  }
  for (const DaemonSpec& spec : specs) RETURN_IF_ERROR(CheckConfigOf(spec));
  ASSIGN_OR_RETURN(const Attempt attempt, BeginAttempt(run.folder));
  for (DaemonSpec& spec : specs) spec.log_file = attempt.LogOf(spec.name);
  if (!options.model.empty()) {
    RETURN_IF_ERROR(PublishFolder(options.model, run, SystemClock()).status());
  }
  return std::unique_ptr<OwnDaemons>(new OwnDaemons(run.folder, attempt.lease, std::move(specs)));
}

OwnDaemons::OwnDaemons(std::string folder, std::shared_ptr<RunLease> lease,
                       std::vector<DaemonSpec> specs)
    : folder_(std::move(folder)), thread_([this, lease, specs = std::move(specs)] {
        const auto say = [this](const std::string& message) {
          const bool at_the_end = stop_.Requested() && stop_.signal() == 0;
          if (!at_the_end) std::cerr << "eval: " << message << std::endl;
        };
        RunEnding ending = Supervise(specs, {}, LocalPlace(), stop_, SystemClock(), say,
                                     [&] { return lease->Held(); });
        const absl::MutexLock lock(&mu_);
        ending_ = std::move(ending);
      }) {}

OwnDaemons::~OwnDaemons() {
  stop_.Request();
  thread_.join();
}

absl::StatusOr<std::string> OwnDaemons::AddressOf(std::string_view role) {
  {
    const absl::MutexLock lock(&mu_);
    if (ending_ && ending_->failure.empty()) return absl::CancelledError("stopped by a signal");
    if (ending_) {
      return absl::InternalError(absl::StrFormat("%s: %s; its log is %s", ending_->failure,
                                                 ending_->cause, ending_->log_file));
    }
  }
  const absl::StatusOr<Address> address = ReadAddress(folder_, role, 0);
  if (address.ok()) return address->host_port;
  return absl::UnavailableError(std::string(address.status().message()));
}

}  // namespace palimpsest::tools::eval
