#include "tools/watch/own_page.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "tools/watch/told_status.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr absl::Duration kStart = absl::Seconds(60), kLook = absl::Milliseconds(50);

}  // namespace

absl::StatusOr<OwnPage> OwnPage::Start(const std::string& folder) {
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

OwnPage::~OwnPage() {
  std::error_code error;
  if (!said_.empty()) fs::remove(said_, error);
}

OwnPage::OwnPage(OwnPage&& other) noexcept
    : child_(std::move(other.child_)),
      said_(std::exchange(other.said_, "")),
      host_port_(std::move(other.host_port_)) {}

// Its first line says where it serves, or what is wrong.
absl::Status OwnPage::Await() {
  const absl::Time deadline = SystemClock().Now() + kStart;
  while (SystemClock().Now() < deadline) {
    const bool ended = child_.Poll().has_value();
    std::ifstream file(said_);
    std::string line;
    if (std::getline(file, line) && !file.eof()) {
      const json told = json::parse(line, nullptr, false);
      if (!told.is_object() || !told.contains("page")) return StatusOfLine(line);
      constexpr std::string_view kScheme = "http://";
      host_port_ = told["page"].get<std::string>().substr(kScheme.size());
      host_port_.pop_back();  // the last slash
      return absl::OkStatus();
    }
    if (ended) return absl::UnknownError("palimpsest-page ended without a word");
    SystemClock().SleepFor(kLook);
  }
  return absl::DeadlineExceededError("palimpsest-page does not start");
}

}  // namespace palimpsest::tools
