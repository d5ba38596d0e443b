#include <netdb.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>

#include "absl/strings/str_format.h"
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

// Empty when a socket can be bound there.
std::string WhyNot(const HostPort& at) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &hints, &found);
  if (code != 0) return gai_strerror(code);
  std::string why;
  const UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes,
             sizeof(yes));  // what ended just now is no hindrance
  if (bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0) why = strerror(errno);
  freeaddrinfo(found);
  return why;
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
  std::map<int, std::string> owner;
  for (const ListenPlace& place : places) {
    Finding finding{"port " + place.key, Verdict::kPass,
                    JoinHostPort(place.at.host, place.at.port)};
    const auto [other, alone] = owner.emplace(place.at.port, place.key);
    const std::string why = alone ? WhyNot(place.at) : "asked for by " + other->second + ", too";
    if (!why.empty()) {
      finding.verdict = Verdict::kFail;
      finding.saw += ": " + why;
      finding.todo = absl::StrFormat(
          "end what listens there (this run?), or set %s to another port", place.key);
    }
    findings.push_back(std::move(finding));
  }
  return findings;
}

}  // namespace palimpsest::tools
