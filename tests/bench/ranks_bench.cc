// All-reduce between two processes of this machine: Gloo in clear text against the mesh under TLS,
// in turns. Usage: ranks_bench REPETITIONS TLS_FOLDER (of deploy/tls/make-certs.sh).
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/collective/join.h"

namespace palimpsest {
namespace {

constexpr size_t kFloats[] = {size_t{1} << 10, size_t{1} << 20, size_t{1} << 24};

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

absl::StatusOr<double> Seconds(Collective& ranks, std::vector<float>& values) {
  RETURN_IF_ERROR(ranks.Barrier());
  const absl::Time start = absl::Now();
  RETURN_IF_ERROR(ranks.AllReduce(values));
  return absl::ToDoubleSeconds(absl::Now() - start);
}

absl::Status Run(int rank, int repetitions, const std::string& folder, const std::string& tls) {
  JoinOptions options{.folder = folder + "/clear", .rank = rank};
  ASSIGN_OR_RETURN(const auto clear, Join(options, SystemClock()));
  options.folder = folder + "/tls";
  options.tls.folder = tls;
  ASSIGN_OR_RETURN(const auto mesh, Join(options, SystemClock()));
  for (const size_t n : kFloats) {
    std::vector<float> values(n, 1.0f);
    std::vector<double> in_clear, under_tls;
    for (int i = 0; i <= repetitions; ++i) {
      ASSIGN_OR_RETURN(const double a, Seconds(*clear, values));
      ASSIGN_OR_RETURN(const double b, Seconds(*mesh, values));
      if (i == 0) continue;  // the first touch
      in_clear.push_back(a);
      under_tls.push_back(b);
    }
    const double a = Median(in_clear), b = Median(under_tls);
    if (rank > 0) continue;
    std::puts(
        absl::StrFormat(R"({"bench": "all_reduce", "ranks": 2, "floats": %d, "gloo_s": %.6f, )"
                        R"("mesh_tls_s": %.6f, "mesh_over_gloo": %.2f})",
                        n, a, b, b / a)
            .c_str());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  if (argc != 3 || std::atoi(argv[1]) < 1) {
    std::fputs("usage: ranks_bench REPETITIONS TLS_FOLDER\n", stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  const std::string folder =
      std::filesystem::temp_directory_path() / absl::StrFormat("ranks-bench-%d", getpid());
  const pid_t other = fork();  // before anything has threads
  const absl::Status status =
      palimpsest::Run(other == 0 ? 1 : 0, std::atoi(argv[1]), folder, argv[2]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  if (other == 0) _exit(status.ok() ? 0 : 1);
  int ended = 0;
  waitpid(other, &ended, 0);
  std::filesystem::remove_all(folder);
  return status.ok() && ended == 0 ? 0 : 1;
}
