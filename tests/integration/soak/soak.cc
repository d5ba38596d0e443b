// Many requests of all kinds to one engine. Usage: engine_soak REQUESTS; README.md says what fails.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/model/decoder.h"
#include "services/inference/engine/engine_factory.h"
#include "tests/integration/soak/clients.h"

namespace palimpsest::inference {
namespace {

constexpr int kInFlight = 64;  // samples
constexpr int64_t kCheckPagesUpTo = 5000;
constexpr double kGrowth = 16 << 20;  // bytes that three quarters may add to the first

const model::ModelConfig kModel{.layers = 2,
                                .hidden = 32,
                                .intermediate = 48,
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 8,
                                .vocab = 64,
                                .max_position = 256};

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  statm >> pages >> pages;
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// Two sets of weights, and the engine on the first.
std::string Folder(int version) {
  return absl::StrFormat("%s/engine_soak_%d/v%d", std::filesystem::temp_directory_path().string(),
                         getpid(), version);
}

absl::StatusOr<std::unique_ptr<Engine>> Start(Book& book, bool check_pages) {
  for (const int version : {1, 2}) {
    std::filesystem::create_directories(Folder(version));
    RETURN_IF_ERROR(
        model::Decoder::Random(kModel, version, model::DType::kFloat32)->Save(Folder(version)));
  }
  return MakeEngine(
      {.model_folder = Folder(1),
       .version = PolicyVersion(1),
       .threads = 1,
       .limits = {.max_running = 24,
                  .max_queued = 256,
                  .kv_pool_bytes = 260 << 10,
                  .max_sessions = 12,
                  .check_pages = check_pages},
       .observer = {.compaction = [&](context::Method, double) { book.Count("events"); },
                    .compacted_early = [&] { book.Count("early events"); },
                    .preempted = [&] { book.Count("preemptions"); },
                    .prefix_hit = [&](int tokens) { book.Count("prefix tokens", tokens); },
                    .step =
                        [&](double, int rows) {
                          book.Count("steps");
                          book.Count("rows", rows);
                        }}});
}

// Does the log explain what was sampled? The live weights alone made what is offered.
void Score(Engine& engine, Book& book) {
  for (const rl::Rollout& r : book.TakeOffered()) {
    if (r.tokens.size() < 2) continue;
    const auto score = engine.Score({.tokens = r.tokens, .events = r.events, .temperature = 1});
    if (!score.ok()) {
      book.Fault(score.status().ToString());
      continue;
    }
    double worst = 0;
    for (size_t p = 1; p < r.tokens.size(); ++p) {
      if (r.origins[p] != rl::Origin::kSampled) continue;
      worst = std::max(worst, double{std::abs(score->logprobs[p - 1] - r.logprobs[p])});
    }
    if (worst > 2e-4) book.Fault(absl::StrFormat("a log explains its tokens to %g only", worst));
    book.Count("scored");
  }
}

void Flip(Engine& engine, Clients& clients, Book& book, int64_t flips) {
  clients.NewEra();
  const auto mode = static_cast<WeightsMode>(flips % 3);
  const auto update =
      engine.UpdateWeights(Folder(1 + static_cast<int>(flips % 2)), PolicyVersion(flips + 2), mode);
  if (!update.ok()) book.Fault(update.status().ToString());
  book.Count("flips");
}

// As before the first request; the last words come a moment before the engine's books are closed.
void ExpectEmpty(Engine& engine, Book& book) {
  Load load;
  for (int i = 0; i < 1000; ++i) {
    load = engine.load();
    if (load.kv_bytes_free == engine.limits().kv_pool_bytes &&
        load.running + load.queued + load.sessions == 0)
      break;
    SystemClock().SleepFor(absl::Milliseconds(5));
  }
  if (load.kv_bytes_free != engine.limits().kv_pool_bytes ||
      load.running + load.queued + load.preempted + load.sessions != 0) {
    book.Fault(absl::StrFormat(
        "left behind: %d of %d bytes free, %d running, %d queued, %d preempted, %d sessions",
        load.kv_bytes_free, engine.limits().kv_pool_bytes, load.running, load.queued,
        load.preempted, load.sessions));
  }
}

void Soak(Engine& engine, Book& book, int64_t requests) {
  Clients clients(engine, book, kModel.vocab, 7);
  const int64_t tenth = std::max<int64_t>(1, requests / 10);
  double first_quarter = 0, last_quarter = 0;
  for (int64_t i = 0; i < requests; ++i) {
    book.WaitUntilFewerThan(kInFlight);
    if (!book.faults().empty()) return;
    clients.Go();
    if (i % 100 == 99) Score(engine, book);
    if (i % (tenth / 2 + 1) == 0) Flip(engine, clients, book, i / (tenth / 2 + 1));
    const double resident = ResidentBytes();
    if (i == requests / 4) first_quarter = resident;
    if (i >= requests - requests / 4) last_quarter = std::max(last_quarter, resident);
    if (i % tenth == tenth - 1)
      std::printf("%lld requests: %.1f MB resident\n", static_cast<long long>(i + 1),
                  resident / (1 << 20));
    std::fflush(stdout);
  }
  book.WaitUntilFewerThan(1);
  Score(engine, book);
  clients.DeleteAllSessions();
  ExpectEmpty(engine, book);
  if (last_quarter > first_quarter + kGrowth) {
    book.Fault(absl::StrFormat("resident memory grows: %.1f MB after a quarter, %.1f MB at the end",
                               first_quarter / (1 << 20), last_quarter / (1 << 20)));
  }
  for (const char* what :
       {"finished", "cancelled", "deadlines", "events", "early events", "preemptions",
        "prefix tokens", "sessions", "forks", "deleted", "flips", "scored"}) {
    if (book.Of(what) == 0) book.Fault(absl::StrFormat("no %s at all", what));
  }
}

int Main(int64_t requests) {
  Book book;
  const absl::Time begin = SystemClock().Now();
  {
    auto engine = Start(book, requests <= kCheckPagesUpTo);
    if (!engine.ok()) {
      std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
      return 1;
    }
    Soak(**engine, book, requests);
  }
  std::filesystem::remove_all(std::filesystem::path(Folder(1)).parent_path());
  for (const auto& [what, n] : book.counts())
    std::printf("%s %lld\n", what.c_str(), static_cast<long long>(n));
  std::printf("%.1f seconds\n", absl::ToDoubleSeconds(SystemClock().Now() - begin));
  for (const std::string& fault : book.faults()) std::fprintf(stderr, "%s\n", fault.c_str());
  return book.faults().empty() ? 0 : 1;
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  const long long requests = argc == 2 ? std::atoll(argv[1]) : 0;
  if (requests < 1) {
    std::fprintf(stderr, "usage: engine_soak REQUESTS\n");
    return 2;
  }
  return palimpsest::inference::Main(requests);
}
