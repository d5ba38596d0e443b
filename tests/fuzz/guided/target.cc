#include "tests/fuzz/guided/target.h"

#include <google/protobuf/stubs/logging.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "absl/strings/str_format.h"

namespace palimpsest::fuzz {

void Broken(const std::string& reason) {
  std::fprintf(stderr, "fuzz: %s\n", reason.c_str());
  std::abort();
}

bool Planted() {
  static const bool planted = std::getenv("PALIMPSEST_FUZZ_PLANTED") != nullptr;
  return planted;
}

namespace {

void WriteSeeds(const std::string& folder) {
  int number = 0;
  for (const std::string& seed : Seeds()) {
    std::ofstream file(absl::StrFormat("%s/seed-%03d", folder, number++), std::ios::binary);
    file << seed;
    if (!file.flush()) Broken("cannot write to " + folder);
  }
  std::exit(0);
}

}  // namespace
}  // namespace palimpsest::fuzz

// What UBSan reports is a finding.
extern "C" const char* __ubsan_default_options() { return "halt_on_error=1:print_stacktrace=1"; }

// Whole stacks of each allocation would take a tenth of the time.
extern "C" const char* __asan_default_options() { return "malloc_context_size=8"; }

// libFuzzer calls it first. `--seeds FOLDER` writes the seeds there and ends.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  google::protobuf::SetLogHandler(nullptr);  // of what cannot be parsed
  if (*argc == 3 && std::string_view((*argv)[1]) == "--seeds")
    palimpsest::fuzz::WriteSeeds((*argv)[2]);
  return 0;
}
