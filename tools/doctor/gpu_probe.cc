#include <dlfcn.h>
#include <glob.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/doctor/probe.h"

namespace palimpsest::tools {
namespace {

// A driver that is stuck never answers.
constexpr char kQuery[] =
    "timeout 20 nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>&1";
constexpr int kNotFound = 127;  // as shells say it

struct Said {
  std::string text;
  int code = 0;
};

Said Shell(const char* command) {
  Said said;
  FILE* const pipe = popen(command, "r");
  if (pipe == nullptr) return {"", kNotFound};
  std::array<char, 4096> buffer;
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    said.text.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  said.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  absl::StripAsciiWhitespace(&said.text);
  return said;
}

bool HasDevices() {
  glob_t found{};
  const bool any = glob("/dev/nvidia[0-9]*", 0, nullptr, &found) == 0;
  globfree(&found);
  return any;
}

std::string NcclVersion() {
  void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return "";
  using GetVersion = int (*)(int*);
  const auto get = reinterpret_cast<GetVersion>(dlsym(library, "ncclGetVersion"));
  int version = 0;
  const bool told = get != nullptr && get(&version) == 0;
  dlclose(library);
  if (!told) return "libnccl.so.2 that does not tell its version";
  return absl::StrFormat("NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace

Gpus MeasureGpus() {
  Gpus gpus{.nccl = NcclVersion()};
  const Said said = Shell(kQuery);
  if (said.code == kNotFound) {
    if (HasDevices()) gpus.problem = "there are /dev/nvidia*, but no nvidia-smi";
    return gpus;
  }
  if (said.code != 0) {
    gpus.problem = absl::StrFormat("nvidia-smi ends with %d: %s", said.code, said.text);
    return gpus;
  }
  for (const auto line : absl::StrSplit(said.text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, ", ");
    gpus.names.push_back(fields.front());
    gpus.driver = fields.back();
  }
  return gpus;
}

}  // namespace palimpsest::tools
