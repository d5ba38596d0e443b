#include "tools/watch/watch.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/rpc/address.h"
#include "common/rpc/config.h"
#include "common/rpc/stop_signal.h"
#include "tools/launch/child_process.h"
#include "tools/watch/page_client.h"
#include "tools/watch/run_logs.h"
#include "tools/watch/view.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr absl::Duration kRedraw = absl::Seconds(1), kStart = absl::Seconds(60);
constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr size_t kWarnings = 4;

bool IsFolder(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

int Columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

// A palimpsest-page of our own, for a run that nobody makes.
class OwnPage {
 public:
  static absl::StatusOr<OwnPage> Start(const std::string& folder) {
    ASSIGN_OR_RETURN(const std::string program, ProgramBeside("palimpsest-page"));
    std::string said = (fs::temp_directory_path() / "palimpsest-watch-XXXXXX").string();
    const int file = mkstemp(said.data());
    if (file < 0) return absl::InternalError("cannot make " + said);
    close(file);
    auto child = ChildProcess::Start({program, folder}, said);
    if (!child.ok()) {
      fs::remove(said);
      return child.status();
    }
    OwnPage page(*std::move(child), said);
    RETURN_IF_ERROR(page.Await());
    return page;
  }
  ~OwnPage() {
    std::error_code error;
    if (!said_.empty()) fs::remove(said_, error);
  }
  OwnPage(OwnPage&& other) noexcept
      : child_(std::move(other.child_)),
        said_(std::exchange(other.said_, "")),
        host_port_(std::move(other.host_port_)) {}

  const std::string& host_port() const { return host_port_; }

 private:
  OwnPage(ChildProcess child, std::string said)
      : child_(std::move(child)), said_(std::move(said)) {}

  // Its first line says where it serves, or what is wrong.
  absl::Status Await() {
    const absl::Time deadline = SystemClock().Now() + kStart;
    while (SystemClock().Now() < deadline) {
      const bool ended = child_.Poll().has_value();
      std::ifstream file(said_);
      std::string line;
      if (std::getline(file, line) && !file.eof()) {
        const json told = json::parse(line, nullptr, false);
        if (!told.is_object() || !told.contains("page")) return absl::NotFoundError(line);
        constexpr std::string_view kScheme = "http://";
        host_port_ = told["page"].get<std::string>().substr(kScheme.size());
        host_port_.pop_back();  // the last slash
        return absl::OkStatus();
      }
      if (ended) return absl::NotFoundError("palimpsest-page ended without a word");
      SystemClock().SleepFor(kLook);
    }
    return absl::DeadlineExceededError("palimpsest-page does not start");
  }

  ChildProcess child_;
  std::string said_;  // a file with what it says
  std::string host_port_;
};

// Finds the page of the target, again when it went away.
class Source {
 public:
  explicit Source(const WatchOptions& options)
      : options_(options), folder_(IsFolder(options.target)) {}

  absl::StatusOr<WatchFacts> Look() {
    // Behind a page of our own the run may come back to life.
    if (client_ == nullptr || own_.has_value()) RETURN_IF_ERROR(Find());
    absl::StatusOr<WatchFacts> facts = Ask();
    if (!absl::IsUnavailable(facts.status())) return facts;
    RETURN_IF_ERROR(Find());
    return Ask();
  }

 private:
  absl::Status Find() {
    if (!folder_) return Connect(options_.target, options_.tls);
    const absl::StatusOr<Address> live = ReadAddress(options_.target, "page", 0);
    if (live.ok()) {
      RETURN_IF_ERROR(Connect(live->host_port, options_.tls));
      const absl::Status answers = client_->Get("/api/progress").status();
      if (!absl::IsUnavailable(answers)) {
        own_.reset();
        return answers;
      }
    }
    if (!own_.has_value()) {
      ASSIGN_OR_RETURN(OwnPage page, OwnPage::Start(options_.target));
      own_.emplace(std::move(page));
    }
    return Connect(own_->host_port(), "");
  }

  absl::Status Connect(const std::string& host_port, const std::string& tls) {
    ASSIGN_OR_RETURN(client_, PageClient::Open(host_port, tls));
    page_ = absl::StrFormat("%s://%s/", tls.empty() ? "http" : "https", host_port);
    return absl::OkStatus();
  }

  absl::StatusOr<WatchFacts> Ask() {
    WatchFacts facts{.page = page_};
    ASSIGN_OR_RETURN(facts.progress, client_->Get("/api/progress"));
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
