// A training step of several ranks on this machine that hold their weights whole, or slices of them
// that come while others compute, or slices that are waited for; seconds and the memory of a rank
// at its peak, by turns. Usage: shards_bench REPETITIONS RANKS LAYERS [MEGABYTES_PER_SECOND]: of
// a link that each rank's share of an exchange takes its time on, besides what this machine needs.
#include <ATen/Parallel.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/collective/background.h"
#include "common/collective/join.h"
#include "common/model/huge_pages.h"
#include "services/trainer/engine/engine.h"
#include "services/trainer/engine/peak_memory.h"
#include "tests/bench/slow_link.h"

namespace palimpsest::trainer {
namespace {

constexpr int kHidden = 512, kVocabulary = 4096, kItemsOfARank = 4, kTokens = 128;

enum class Way { kWhole, kWaits, kAhead };
constexpr std::array kWays = {Way::kWhole, Way::kWaits, Way::kAhead};

struct Measured {
  double seconds = 0, loss = 0;
  int64_t peak = 0;  // bytes above what the process had before there was a model
};

EngineOptions OptionsOf(Way way, int layers, const std::string& folder) {
  EngineOptions o;
  o.run = {.name = "run", .folder = folder, .seed = 5};
  o.model.init = {.layers = layers,
                  .hidden = kHidden,
                  .intermediate = 3 * kHidden,
                  .heads = 8,
                  .kv_heads = 4,
                  .head_dim = 64,
                  .max_position = kTokens,
                  .tied = true};
  for (int i = static_cast<int>(o.model.init.special_tokens.size()); i < kVocabulary - 256; ++i) {
    o.model.init.special_tokens.push_back(absl::StrFormat("<%d>", i));
  }
  o.threads = 1;
  o.activations = model::Activations::kRecomputed;
  o.weights = way == Way::kWhole ? WeightsHeld::kWhole : WeightsHeld::kSharded;
  o.max_tokens_per_micro_batch = kItemsOfARank * kTokens / 2;
  o.schedule = {.learning_rate = 1e-4, .warmup_steps = 0};
  return o;
}

Batch BatchOf(int64_t step, int ranks) {
  Batch batch{.id = std::to_string(step), .step = step};
  for (int i = 0; i < kItemsOfARank * ranks; ++i) {
    SftItem item{.id = std::to_string(i), .prompt_tokens = 1};
    for (int t = 0; t < kTokens; ++t) {
      item.ids.push_back(static_cast<int32_t>((step * 7919 + i * 104729 + t * 31) % kVocabulary));
    }
    item.loss_mask.assign(kTokens, true);
    item.loss_mask[0] = false;
    batch.sft.push_back(std::move(item));
  }
  return batch;
}

// One rank of one way: a step for each byte that it reads.
absl::Status Serve(Way way, int rank, int size, int layers, const std::string& folder, double rate,
                   int from, int to) {
  ASSIGN_OR_RETURN(std::unique_ptr<Collective> joined,
                   Join({.folder = folder + "/ranks", .rank = rank, .size = size}, SystemClock()));
  std::unique_ptr<Collective> ranks =
      std::make_unique<bench::SlowLink>(std::move(joined), rate, SystemClock());
  if (way == Way::kAhead) ranks = InBackground(std::move(ranks));
  at::set_num_threads(1);
  ResetPeakMemory();
  const int64_t before = PeakMemory();
  ASSIGN_OR_RETURN(const auto engine,
                   TrainerEngine::Open(OptionsOf(way, layers, folder), SystemClock(), *ranks));
  for (char go = 0; read(from, &go, 1) == 1;) {
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const TrainOutcome outcome, engine->Train(BatchOf(engine->step() + 1, size)));
    const Measured measured{.seconds = absl::ToDoubleSeconds(absl::Now() - start),
                            .loss = outcome.result.loss,
                            .peak = outcome.result.peak_bytes - before};
    if (write(to, &measured, sizeof measured) != sizeof measured) break;
  }
  return absl::OkStatus();
}

// The parent's ends of a rank's pipes.
struct Rank {
  pid_t pid = 0;
  int to = -1, from = -1;
};

Rank Start(Way way, int rank, int size, int layers, const std::string& folder, double rate) {
  int down[2], up[2];
  if (pipe(down) != 0 || pipe(up) != 0) std::abort();
  const pid_t pid = fork();  // before anything has threads
  if (pid != 0) {
    close(down[0]);
    close(up[1]);
    return {pid, down[1], up[0]};
  }
  for (int fd = 3; fd < 1024; ++fd) {
    if (fd != down[0] && fd != up[1]) close(fd);
  }
  std::filesystem::create_directories(folder);
  const absl::Status status = Serve(way, rank, size, layers, folder, rate, down[0], up[1]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  _exit(status.ok() ? 0 : 1);
}

// A step of all ranks: the slowest one's seconds. False when one has ended.
bool Turn(const std::vector<Rank>& ranks, Measured& measured) {
  for (const Rank& rank : ranks) {
    if (write(rank.to, "!", 1) != 1) return false;
  }
  measured = {};
  for (const Rank& rank : ranks) {
    Measured one;
    if (read(rank.from, &one, sizeof one) != sizeof one) return false;
    measured = {std::max(measured.seconds, one.seconds), one.loss,
                std::max(measured.peak, one.peak)};
  }
  return true;
}

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

int Main(int repetitions, int size, int layers, double rate) {
  const std::string folder =
      std::filesystem::temp_directory_path() / absl::StrFormat("shards-bench-%d", getpid());
  std::array<std::vector<Rank>, kWays.size()> ranks;
  for (size_t way = 0; way < kWays.size(); ++way) {
    for (int rank = 0; rank < size; ++rank) {
      ranks[way].push_back(
          Start(kWays[way], rank, size, layers, absl::StrFormat("%s/%d", folder, way), rate));
    }
  }
  std::array<std::vector<double>, kWays.size()> seconds;
  std::array<Measured, kWays.size()> last;
  bool well = true;
  for (int i = 0; i <= repetitions && well; ++i) {
    for (size_t way = 0; way < kWays.size() && well; ++way) {
      well = Turn(ranks[way], last[way]);
      if (i > 0) seconds[way].push_back(last[way].seconds);  // the first touch
    }
  }
  for (const auto& of_way : ranks) {
    for (const Rank& rank : of_way) close(rank.to);
  }
  for (const auto& of_way : ranks) {
    for (const Rank& rank : of_way) waitpid(rank.pid, nullptr, 0);
  }
  std::filesystem::remove_all(folder);
  if (!well) return 1;
  const auto mb = [&](size_t way) { return static_cast<double>(last[way].peak) / 1048576; };
  const double whole = Median(seconds[0]), waits = Median(seconds[1]), ahead = Median(seconds[2]);
  std::puts(absl::StrFormat(
                R"({"bench": "shards", "ranks": %d, "layers": %d, "hidden": %d, "vocab": %d, )"
                R"("rows_of_a_rank": %d, "link_mb_s": %.0f, "whole_s": %.3f, "waits_s": %.3f, )"
                R"("ahead_s": %.3f, "ahead_over_waits": %.3f, "ahead_over_whole": %.3f, )"
                R"("whole_peak_mb": %.0f, "waits_peak_mb": %.0f, "ahead_peak_mb": %.0f, )"
                R"("losses": [%.6f, %.6f, %.6f]})",
                size, layers, kHidden, kVocabulary, kItemsOfARank * (kTokens - 1), rate, whole,
                waits, ahead, ahead / waits, ahead / whole, mb(0), mb(1), mb(2), last[0].loss,
                last[1].loss, last[2].loss)
                .c_str());
  return 0;
}

}  // namespace
}  // namespace palimpsest::trainer

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  if (argc < 4 || argc > 5 || std::atoi(argv[1]) < 1 || std::atoi(argv[2]) < 2 ||
      std::atoi(argv[3]) < 1) {
    std::fputs("usage: shards_bench REPETITIONS RANKS LAYERS [MEGABYTES_PER_SECOND]\n", stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  return palimpsest::trainer::Main(std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]),
                                   argc == 5 ? std::atof(argv[4]) : 0);
}
