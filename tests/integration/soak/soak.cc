// Many requests of all kinds to one engine. Usage: engine_soak REQUESTS, or engine_soak MINUTESm;
// README.md says what fails.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
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
constexpr double kFlips = 20;         // of weights, in all

const model::ModelConfig kModel{.layers = 2,
                                .hidden = 32,
                                .intermediate = 48,
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 8,
                                .vocab = 64,
                                .max_position = 256};

// How long it goes on: one of the two is 0.
struct Target {
  int64_t requests = 0;
  absl::Duration time;
  // Of the whole, from 0; 1 is the end.
  double Share(int64_t asked, absl::Duration elapsed) const {
    if (requests == 0) return absl::FDivDuration(elapsed, time);
    return static_cast<double>(asked) / static_cast<double>(requests);
  }
};

// What this process holds.
struct Usage {
  double bytes = 0;  // resident
  int64_t descriptors = 0, threads = 0;
  void Raise(const Usage& other) {
    bytes = std::max(bytes, other.bytes);
    descriptors = std::max(descriptors, other.descriptors);
    threads = std::max(threads, other.threads);
  }
  std::string Text() const {
    return absl::StrFormat("%.1f MB resident, %d descriptors, %d threads", bytes / (1 << 20),
                           descriptors, threads);
  }
};

int64_t Entries(const char* folder) {
  return std::distance(std::filesystem::directory_iterator(folder),
                       std::filesystem::directory_iterator());
}

Usage Measure() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  statm >> pages >> pages;
  return {.bytes = pages * static_cast<double>(sysconf(_SC_PAGESIZE)),
          .descriptors = Entries("/proc/self/fd"),
          .threads = Entries("/proc/self/task")};
}

// From the first quarter to the last one.
void ExpectFlat(const Usage& first, const Usage& last, Book& book) {
  std::printf("long: at most in the first quarter %s; in the last one %s\n", first.Text().c_str(),
              last.Text().c_str());
  if (last.bytes > first.bytes + kGrowth || last.descriptors > first.descriptors ||
      last.threads > first.threads) {
    book.Fault(absl::StrFormat("it grows: %s in the first quarter, %s in the last one",
                               first.Text(), last.Text()));
  }
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

// All requests; false after a fault. `first`, `last`: the most of these quarters.
bool AskAll(Engine& engine, Clients& clients, Book& book, const Target& target, Usage& first,
            Usage& last) {
  const absl::Time begin = SystemClock().Now();
  int64_t flips = 0, tenths = 1;
  double share = 0;
  for (int64_t i = 0; share < 1; ++i) {
    book.WaitUntilFewerThan(kInFlight);
    if (!book.faults().empty()) return false;
    clients.Go();
    if (i % 100 == 99) Score(engine, book);
    if (share * kFlips >= static_cast<double>(flips)) Flip(engine, clients, book, flips++);
    const Usage usage = Measure();
    share = target.Share(i + 1, SystemClock().Now() - begin);
    if (share <= 0.25) first.Raise(usage);
    if (share >= 0.75) last.Raise(usage);
    if (share * 10 < static_cast<double>(tenths)) continue;
    ++tenths;
    std::printf("%lld requests: %s\n", static_cast<long long>(i + 1), usage.Text().c_str());
    std::fflush(stdout);
  }
  return true;
}

void Soak(Engine& engine, Book& book, const Target& target) {
  Clients clients(engine, book, kModel.vocab, 7);
  Usage first, last;
  if (!AskAll(engine, clients, book, target, first, last)) return;
  book.WaitUntilFewerThan(1);
  Score(engine, book);
  clients.DeleteAllSessions();
  ExpectEmpty(engine, book);
  ExpectFlat(first, last, book);
  for (const char* what :
       {"finished", "cancelled", "deadlines", "events", "early events", "preemptions",
        "prefix tokens", "sessions", "forks", "deleted", "flips", "scored"}) {
    if (book.Of(what) == 0) book.Fault(absl::StrFormat("no %s at all", what));
  }
}

int Main(const Target& target) {
  Book book;
  const absl::Time begin = SystemClock().Now();
  {
    const bool check_pages = target.requests > 0 && target.requests <= kCheckPagesUpTo;
    auto engine = Start(book, check_pages);
    if (!engine.ok()) {
      std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
      return 1;
    }
    Soak(**engine, book, target);
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
  using namespace palimpsest::inference;
  const absl::string_view word = argc == 2 ? argv[1] : "";
  int64_t n = 0;
  const bool minutes = !word.empty() && word.back() == 'm';
  if (!absl::SimpleAtoi(minutes ? word.substr(0, word.size() - 1) : word, &n) || n < 1) {
    std::fprintf(stderr, "usage: engine_soak REQUESTS, or engine_soak MINUTESm (got: %s)\n",
                 std::string(word).c_str());
    return 2;
  }
  return Main({.requests = minutes ? 0 : n, .time = absl::Minutes(minutes ? n : 0)});
}
