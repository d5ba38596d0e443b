// palimpsest-page RUN [HOST:PORT]: the web page of a run that is over, or that another process
// makes. It only looks. One line on stdout says where it serves; it ends with a signal.
#include <iostream>
#include <nlohmann/json.hpp>

#include "common/base/clock.h"
#include "common/rpc/config.h"
#include "common/rpc/daemon.h"
#include "common/telemetry/metrics_server.h"
#include "services/orchestrator/server/messages.h"
#include "services/orchestrator/web/run_page.h"

namespace palimpsest::orchestrator {
namespace {

constexpr char kName[] = "palimpsest-page";

absl::Status Serve(const std::string& folder, const HostPort& at, const StopSignal& stop) {
  const WireRolloutCodec codec;
  ASSIGN_OR_RETURN(const auto page, RunPage::Open(folder, codec, SystemClock(), std::nullopt));
  Metrics metrics("page", Version(), SystemClock());
  ASSIGN_OR_RETURN(const auto server,
                   MetricsServer::Start(
                       at.host, at.port, metrics, [] { return absl::OkStatus(); }, nullptr,
                       [&page](const HttpRequest& request) { return page->Answer(request); }));
  const std::string url = "http://" + JoinHostPort(at.host, server->port()) + "/";
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;  // a path is any bytes
  std::cout << nlohmann::json{{"page", url}, {"run", folder}}.dump(-1, ' ', false, kReplace)
            << std::endl;
  stop.Wait();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty() || words.size() > 2 || words[0].starts_with("-")) {
    return UsageError(kName, absl::InvalidArgumentError(
                                 "usage: palimpsest-page RUN [HOST:PORT], by default 127.0.0.1:0"));
  }
  if (words[0].empty()) {
    return UsageError(kName, absl::InvalidArgumentError("RUN=\"\" is empty: the run's folder?"));
  }
  const std::string place = words.size() > 1 ? words[1] : "127.0.0.1:0";
  const absl::StatusOr<HostPort> at = ParseHostPort("HOST:PORT", place);
  if (!at.ok()) return UsageError(kName, at.status());
  const absl::Status reach = CheckReach("HOST:PORT", place, at->host, false, false);
  if (!reach.ok()) return UsageError(kName, reach);
  const StopSignal stop;
  return FinishRun(kName, Serve(words[0], *at, stop));
}

}  // namespace
}  // namespace palimpsest::orchestrator

int main(int argc, char** argv) { return palimpsest::orchestrator::Main(argc, argv); }
