#include "tools/watch/watch.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <optional>

#include "absl/strings/str_format.h"
#include "common/rpc/address.h"
#include "common/rpc/config.h"
#include "common/rpc/stop_signal.h"
#include "tools/launch/child_process.h"
#include "tools/watch/own_page.h"
#include "tools/watch/page_client.h"
#include "tools/watch/run_logs.h"
#include "tools/watch/view.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr absl::Duration kRedraw = absl::Seconds(1);
// For a page that may be another's, or hang: there is a ledger to fall back to.
constexpr absl::Duration kProbe = absl::Seconds(3);
constexpr size_t kWarnings = 4;

bool IsFolder(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

int Columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

// As the page of a run says its folder, of which a path that is no text is only half told.
json FolderText(const std::string& folder) {
  std::error_code error;
  const json path = fs::canonical(folder, error).string();
  return json::parse(path.dump(-1, ' ', false, json::error_handler_t::replace));
}

// Finds the page of the target, again when it went away.
class Source {
 public:
  explicit Source(const WatchOptions& options)
      : options_(options), folder_(IsFolder(options.target)) {}

  absl::StatusOr<WatchFacts> Look() {
    // Behind a page of our own the run may come back to life.
    if (client_ == nullptr || own_.has_value()) RETURN_IF_ERROR(Find());
    absl::StatusOr<WatchFacts> facts = Ask();
    if (facts.ok() || (!folder_ && !absl::IsUnavailable(facts.status()))) return facts;
    RETURN_IF_ERROR(Find());
    return Ask();
  }

 private:
  absl::Status Find() {
    if (!folder_) return Connect(options_.target, options_.tls);
    const absl::StatusOr<Address> live = ReadAddress(options_.target, "page", 0);
    if (live.ok()) {
      RETURN_IF_ERROR(Connect(live->host_port, options_.tls));
      if (IsOfThisRun(client_->Get("/api/progress", kProbe))) {
        own_.reset();
        return absl::OkStatus();
      }
    }
    if (!own_.has_value()) {
      ASSIGN_OR_RETURN(OwnPage page, OwnPage::Start(options_.target));
      own_.emplace(std::move(page));
    }
    return Connect(own_->host_port(), "");
  }

  // A daemon that was killed leaves its address, where another program, or the page of another run,
  // may listen now.
  bool IsOfThisRun(const absl::StatusOr<json>& progress) const {
    return progress.ok() && progress->value("folder", json()) == FolderText(options_.target);
  }

  absl::Status Connect(const std::string& host_port, const std::string& tls) {
    ASSIGN_OR_RETURN(client_, PageClient::Open(host_port, tls));
    page_ = absl::StrFormat("%s://%s/", tls.empty() ? "http" : "https", host_port);
    return absl::OkStatus();
  }

  absl::StatusOr<WatchFacts> Ask() {
    WatchFacts facts{.page = page_};
    ASSIGN_OR_RETURN(facts.progress, client_->Get("/api/progress"));
    if (folder_ && !IsOfThisRun(facts.progress)) {
      return absl::UnavailableError(page_ + " is not the page of this run");
    }
    ASSIGN_OR_RETURN(facts.curves, client_->Get("/api/curves?points=200"));
    ASSIGN_OR_RETURN(facts.fleet, client_->Get("/api/fleet"));
    ASSIGN_OR_RETURN(facts.rollouts, client_->Get("/api/rollouts?limit=3"));
    if (folder_) facts.warnings = LastWarnings(options_.target, kWarnings);
    return facts;
  }

  const WatchOptions& options_;
  const bool folder_;
  std::optional<OwnPage> own_;
  std::unique_ptr<PageClient> client_;
  std::string page_;
};

// Nothing will change any more.
bool IsOver(const WatchFacts& facts) {
  const json& phase = facts.progress.value("phase", json());
  return phase == "done" || phase == "failed" || phase == "stopped";
}

std::string Picture(const absl::StatusOr<WatchFacts>& seen, const WatchFacts& last, int columns,
                    size_t& lines) {
  std::string text;
  std::vector<std::string> rows = WatchLines(seen.ok() ? *seen : last, columns);
  if (!seen.ok())
    rows.push_back(std::string(seen.status().message()).substr(0, static_cast<size_t>(columns)));
  for (const std::string& row : rows) text += row + "\n";
  lines = rows.size();
  return text;
}

// Replaces this process.
absl::Status ServePage(const WatchOptions& options) {
  ASSIGN_OR_RETURN(const std::string program, ProgramBeside("palimpsest-page"));
  execl(program.c_str(), program.c_str(), options.target.c_str(), options.web.c_str(), nullptr);
  return absl::InternalError("cannot run " + program);
}

}  // namespace

absl::Status CheckWatch(const WatchOptions& options) {
  const bool folder = IsFolder(options.target);
  if (!folder && options.target.find(':') == std::string::npos) {
    return absl::NotFoundError("RUN=" + options.target + " is no folder, and no HOST:PORT either");
  }
  if (!folder) RETURN_IF_ERROR(ParseHostPort("RUN or HOST:PORT", options.target).status());
  if (options.web.empty()) return PageClient::CheckTls(options.tls);
  if (!folder) {
    return absl::InvalidArgumentError("--web wants the folder of a run, not " + options.target);
  }
  if (options.once || !options.tls.empty()) {
    return absl::InvalidArgumentError("--web goes without --once and --tls");
  }
  return ParseHostPort("--web", options.web).status();
}

absl::Status RunWatch(const WatchOptions& options, std::ostream& out, std::ostream& err) {
  if (!options.web.empty()) return ServePage(options);
  const StopSignal stop;
  const bool again = !options.once && isatty(STDERR_FILENO) != 0;
  Source source(options);
  WatchFacts last;
  size_t drawn = 0;
  do {
    absl::StatusOr<WatchFacts> seen = source.Look();
    if (!seen.ok() && (last.progress.is_null() || !again)) return seen.status();
    if (drawn > 0) err << absl::StrFormat("\x1b[%dA\x1b[J", drawn);
    err << Picture(seen, last, Columns(), drawn) << std::flush;
    if (seen.ok()) last = *std::move(seen);
  } while (again && !IsOver(last) && !stop.WaitFor(kRedraw));
  out << json{{"progress", last.progress}, {"fleet", last.fleet}, {"page", last.page}}.dump(
             -1, ' ', false, json::error_handler_t::replace)
      << "\n";
  return absl::OkStatus();
}

}  // namespace palimpsest::tools
