#include <netdb.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <span>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "tools/doctor/probe.h"

namespace palimpsest::tools {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

template <class Which>
int64_t SoftLimit(Which which) {
  rlimit limit{};
  if (getrlimit(which, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kNoLimit;
  return static_cast<int64_t>(limit.rlim_cur);
}

int64_t FirstNumber(const std::string& path) {
  int64_t value = kNoLimit;
  return std::ifstream(path) >> value ? value : kNoLimit;  // "max", or no such file
}

int64_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  int64_t bytes = kNoLimit;
  std::string key;
  for (int64_t kib = 0; file >> key >> kib; file.ignore(64, '\n')) {
    if (key == "MemAvailable:") bytes = kib << 10;
  }
  const int64_t limit = FirstNumber("/sys/fs/cgroup/memory.max");
  const int64_t used = FirstNumber("/sys/fs/cgroup/memory.current");
  return limit == kNoLimit || used == kNoLimit
             ? bytes
             : std::min(bytes, std::max<int64_t>(0, limit - used));
}

int64_t Cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

// A socket that listens there, or why none can.
absl::StatusOr<UniqueFd> ListenAt(const HostPort& at) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &hints, &found);
  if (code != 0) return absl::NotFoundError(gai_strerror(code));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> place(found, freeaddrinfo);
  UniqueFd fd(socket(place->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes,
             sizeof(yes));  // what ended just now is no hindrance
  if (bind(fd.get(), place->ai_addr, place->ai_addrlen) != 0 || listen(fd.get(), 1) != 0) {
    return absl::UnavailableError(strerror(errno));
  }
  return fd;
}

// The first of `others` that hinders a daemon at `place`: the system knows which addresses are one.
const ListenPlace* InTheWay(std::span<const ListenPlace> others, const ListenPlace& place) {
  for (const ListenPlace& other : others) {
    if (other.at.port != place.at.port) continue;
    const absl::StatusOr<UniqueFd> taken = ListenAt(other.at);
    if (taken.ok() && !ListenAt(place.at).ok()) return &other;
  }
  return nullptr;
}

Finding ProbePort(std::span<const ListenPlace> before, const ListenPlace& place) {
  Finding finding{"port " + place.key, Verdict::kFail, JoinHostPort(place.at.host, place.at.port)};
  const absl::Status free = ListenAt(place.at).status();
  const ListenPlace* const other = free.ok() ? InTheWay(before, place) : nullptr;
  if (place.daemons > 1) {
    finding.saw += absl::StrFormat(": asked for by %d daemons of this machine", place.daemons);
    finding.todo = absl::StrFormat(
        "set %s to port 0 (a free one for each), or place one of them here", place.key);
  } else if (!free.ok() || other != nullptr) {
    finding.saw += other != nullptr ? ": asked for by " + other->key + ", too"
                                    : ": " + std::string(free.message());
    finding.todo =
        absl::StrFormat("end what listens there (this run?), or set %s to another port", place.key);
  } else {
    finding.verdict = Verdict::kPass;
  }
  return finding;
}

}  // namespace

Machine MeasureMachine() {
  return {.open_files = SoftLimit(RLIMIT_NOFILE),
          .processes = SoftLimit(RLIMIT_NPROC),
          .memory_bytes = AvailableMemory(),
          .cores = Cores()};
}

std::vector<Finding> ProbePorts(const std::vector<ListenPlace>& places) {
  std::vector<Finding> findings;
  for (size_t i = 0; i < places.size(); ++i) {
    findings.push_back(ProbePort(std::span(places).first(i), places[i]));
  }
  return findings;
}

}  // namespace palimpsest::tools
