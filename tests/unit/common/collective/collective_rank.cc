// One rank of the tests: collective_rank FOLDER RANK SIZE WHAT [TLS_FOLDER]. Prints "ready" once
// all are connected; ends with 0, or with 1 after the error of the collective.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "common/collective/join.h"

namespace palimpsest {
namespace {

absl::Status Expect(bool holds, const char* what) {
  return holds ? absl::OkStatus() : absl::InternalError(what);
}

// Small whole numbers: their sums are exact in any order.
float Value(int rank, size_t i) {
  return static_cast<float>(rank + 1) * static_cast<float>(i % 97);
}

absl::Status CheckArrays(Collective& c, size_t n) {
  const auto size = static_cast<size_t>(c.size());
  std::vector<float> mine(n), all(size * n);
  for (size_t i = 0; i < n; ++i) mine[i] = Value(c.rank(), i);
  RETURN_IF_ERROR(c.AllGather(mine, all));
  for (size_t i = 0; i < all.size(); ++i) {
    RETURN_IF_ERROR(Expect(all[i] == Value(static_cast<int>(i / n), i % n), "all-gather"));
  }
  const int ranks = c.size() * (c.size() + 1) / 2;  // sum of rank + 1
  RETURN_IF_ERROR(c.AllReduce(mine));
  for (size_t i = 0; i < n; ++i) {
    RETURN_IF_ERROR(Expect(mine[i] == Value(ranks - 1, i), "all-reduce"));
  }
  for (size_t i = 0; i < all.size(); ++i) all[i] = Value(c.rank(), i);
  RETURN_IF_ERROR(c.ReduceScatter(all, mine));
  for (size_t i = 0; i < n; ++i) {
    const size_t at = static_cast<size_t>(c.rank()) * n + i;
    RETURN_IF_ERROR(Expect(mine[i] == Value(ranks - 1, at), "reduce-scatter"));
  }
  return absl::OkStatus();
}

// Of rank R: R bytes, and of rank 1 many.
std::string BytesOf(int rank) { return std::string(rank == 1 ? 3000000 : rank, char('a' + rank)); }

absl::Status CheckBytes(Collective& c) {
  for (int root = 0; root < c.size(); ++root) {
    std::string bytes = c.rank() == root ? BytesOf(root) : "other";
    RETURN_IF_ERROR(c.Broadcast(root, bytes, absl::InfiniteDuration()));
    RETURN_IF_ERROR(Expect(bytes == BytesOf(root), "broadcast"));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> all, c.AllGatherBytes(BytesOf(c.rank())));
  RETURN_IF_ERROR(Expect(static_cast<int>(all.size()) == c.size(), "all-gather of bytes: size"));
  for (int rank = 0; rank < c.size(); ++rank) {
    const bool same = all[static_cast<size_t>(rank)] == BytesOf(rank);
    RETURN_IF_ERROR(Expect(same, "all-gather of bytes"));
  }
  return c.Barrier();
}

absl::Status CheckAgreement(Collective& c) {
  RETURN_IF_ERROR(Agree(c, absl::OkStatus()));
  const int last = c.size() - 1;
  const absl::Status told =
      Agree(c, c.rank() == last ? absl::NotFoundError("no disk") : absl::OkStatus());
  const std::string message = c.size() == 1 ? "no disk" : absl::StrFormat("rank %d: no disk", last);
  RETURN_IF_ERROR(Expect(told == absl::NotFoundError(message), "agreed error"));
  ASSIGN_OR_RETURN(const std::string word, OfFirst(c, c.rank() == 0 ? "word" : "other"));
  RETURN_IF_ERROR(Expect(word == "word", "word of rank 0"));
  const absl::Status none = OfFirst(c, absl::NotFoundError("none")).status();
  RETURN_IF_ERROR(Expect(absl::IsNotFound(none), "error of rank 0"));
  return c.health();
}

// Three of each under way at once, and a call that comes after them.
absl::Status CheckBegun(Collective& c, size_t n) {
  const auto size = static_cast<size_t>(c.size());
  const float ranks = static_cast<float>(size * (size + 1) / 2);
  std::vector<std::vector<float>> mine(3), all(3), sums(3), parts(3);
  std::vector<Pending> pending;
  for (size_t k = 0; k < 3; ++k) {
    mine[k].assign(n, static_cast<float>(c.rank() + 1) + static_cast<float>(10 * k));
    all[k].resize(size * n);
    sums[k].assign(size * n, static_cast<float>(c.rank() + 1) * static_cast<float>(k + 1));
    parts[k].resize(n);
    pending.push_back(c.BeginAllGather(mine[k], all[k]));
    pending.push_back(c.BeginReduceScatter(sums[k], parts[k]));
  }
  RETURN_IF_ERROR(c.Barrier());
  for (Pending& one : pending) RETURN_IF_ERROR(one.Wait());
  for (size_t k = 0; k < 3; ++k) {
    for (size_t i = 0; i < all[k].size(); ++i) {
      const float expected = static_cast<float>(i / n + 1 + 10 * k);
      RETURN_IF_ERROR(Expect(all[k][i] == expected, "begun all-gather"));
    }
    for (const float part : parts[k]) {
      const float expected = ranks * static_cast<float>(k + 1);
      RETURN_IF_ERROR(Expect(part == expected, "begun reduce-scatter"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAll(Collective& c) {
  for (const size_t n : {1, 3, 1000, 70001}) {
    RETURN_IF_ERROR(CheckArrays(c, n));
    RETURN_IF_ERROR(CheckBegun(c, n));
  }
  RETURN_IF_ERROR(CheckBytes(c));
  return CheckAgreement(c);
}

absl::Status Sums(Collective& c) {
  for (std::vector<float> values(1000);;) RETURN_IF_ERROR(c.AllReduce(values));
}

absl::Status Begun(Collective& c) {
  for (;;) RETURN_IF_ERROR(CheckBegun(c, 1000));
}

// What rank 1 does when it is not like the others.
absl::Status OddOne(Collective& c, std::string_view what) {
  if (what == "late") {
    SystemClock().SleepFor(absl::Seconds(20));
    return absl::OkStatus();
  }
  c.Fail(absl::ResourceExhaustedError("out of memory"));
  return c.Barrier();
}

absl::Status Do(Collective& c, std::string_view what) {
  if (what == "all") return CheckAll(c);
  if (what == "begun") return Begun(c);
  if (what == "idle") {
    std::string command;
    if (c.rank() == 0) SystemClock().SleepFor(absl::Seconds(60));
    return c.Broadcast(0, command, absl::InfiniteDuration());
  }
  if (what != "sums" && c.rank() == 1) return OddOne(c, what);
  return Sums(c);
}

absl::Status Run(int argc, char** argv) {
  const JoinOptions options = {.folder = argv[1],
                               .rank = std::atoi(argv[2]),
                               .size = std::atoi(argv[3]),
                               .tls = {.folder = argc > 5 ? argv[5] : ""},
                               .meeting = absl::Seconds(60),
                               .timeout = absl::Seconds(3),
                               .roll_call = absl::Seconds(1)};
  std::unique_ptr<Collective> joined;
  if (options.size > 1) {
    ASSIGN_OR_RETURN(joined, Join(options, SystemClock()));
  }
  std::puts("ready");
  std::fflush(stdout);
  return Do(joined ? *joined : Alone(), argv[4]);
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) return 2;
  std::signal(SIGPIPE, SIG_IGN);
  const absl::Status status = palimpsest::Run(argc, argv);
  std::puts(status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
