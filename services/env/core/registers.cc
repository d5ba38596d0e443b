#include "services/env/core/registers.h"

#include <array>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::env {
namespace {

constexpr std::string_view kName = "registers";
constexpr int kSeeds = 4;
constexpr int kAsked = 4;
constexpr size_t kLineBytes = 9;      // "a7+d3=e0;"
constexpr size_t kPairBytes = 2;      // "e0"
constexpr int kAnswerTailBytes = 10;  // "#p5l6o9n4$"
constexpr int kAgesTogether = 4;

struct Puzzle {
  bool far = false;
  std::array<int, kSeeds> seeds = {};
  std::array<int, kAsked> asked = {};  // computed registers, from 0
};

std::string Pair(int reg, int digit) {
  return {static_cast<char>('a' + reg), static_cast<char>('0' + digit)};
}

// All registers by letter: the seeds, then the computed ones.
std::vector<int> Values(const Puzzle& puzzle, int lines) {
  std::vector<int> v(puzzle.seeds.begin(), puzzle.seeds.end());
  for (int i = 0; i < lines; ++i) v.push_back((v[puzzle.far ? i : 0] + v.back()) % 10);
  return v;
}

std::string SeedText(const Puzzle& puzzle) {
  std::string text;
  for (int r = 0; r < kSeeds; ++r) text += Pair(r, puzzle.seeds[r]);
  return text;
}

std::string Prompt(const Puzzle& puzzle) {
  std::string text = (puzzle.far ? "^F" : "^N") + SeedText(puzzle) + "?";
  for (int r : puzzle.asked) text += static_cast<char>('a' + kSeeds + r);
  return text + ":";
}

std::string Lines(const Puzzle& puzzle, const std::vector<int>& v) {
  std::string text;
  for (int r = kSeeds; r < static_cast<int>(v.size()); ++r) {
    const int left = puzzle.far ? r - kSeeds : 0;
    text += Pair(left, v[left]) + "+" + Pair(r - 1, v[r - 1]) + "=" + Pair(r, v[r]) + ";";
  }
  return text;
}

std::string Answer(const Puzzle& puzzle, const std::vector<int>& v) {
  std::string text;
  for (int r : puzzle.asked) text += Pair(kSeeds + r, v[kSeeds + r]);
  return text;
}

// Is the pair at byte `at` of the wanted answer there?
bool PairMatches(std::string_view want, std::string_view got, size_t at) {
  return at < got.size() && got.substr(at, kPairBytes) == want.substr(at, kPairBytes);
}

int MatchingPairs(std::string_view want, std::string_view got) {
  int right = 0;
  for (size_t at = 0; at < want.size(); at += kPairBytes) right += PairMatches(want, got, at);
  return right;
}

// Adds recall_1_4, recall_5_8, ..: of the asked registers whose line is that old (the last line has
// age 1) the fraction that is right. Ages that nothing asks for have no part.
void AddRecall(std::string_view want, std::string_view got, int lines,
               std::map<std::string, double>& parts) {
  std::map<int, std::pair<int, int>> by_ages;  // right and asked, by first age
  for (size_t at = 0; at < want.size(); at += kPairBytes) {
    const int age = lines - (want[at] - 'a' - kSeeds);
    auto& [right, asked] = by_ages[(age - 1) / kAgesTogether * kAgesTogether + 1];
    right += PairMatches(want, got, at);
    ++asked;
  }
  for (const auto& [first, counts] : by_ages) {
    parts[absl::StrFormat("recall_%d_%d", first, first + kAgesTogether - 1)] =
        static_cast<double>(counts.first) / counts.second;
  }
}

// Lines end with ';'; line i of `got` is compared with line i of `want` only. `first_wrong` is the
// earliest difference, counted from 0.
int MatchingLines(std::string_view want, std::string_view got, int* first_wrong) {
  int right = 0;
  const int count = static_cast<int>(want.size() / kLineBytes);
  *first_wrong = count;
  for (int line = 0; line < count; ++line) {
    const size_t semicolon = got.find(';');
    const std::string_view text =
        semicolon == got.npos ? std::string_view() : got.substr(0, semicolon + 1);
    const bool same = text == want.substr(line * kLineBytes, kLineBytes);
    if (same) ++right;
    if (!same && *first_wrong == count) *first_wrong = line;
    got.remove_prefix(text.size());
  }
  return right;
}

class Registers final : public Environment {
 public:
  explicit Registers(const RegistersOptions& options) : options_(options) {}

  std::string_view name() const override { return kName; }
  std::string_view description() const override {
    return "A chain of additions modulo 10 written line by line, then questions about lines that "
           "a small KV budget has compacted. Constant lengths; byte-level alphabet.";
  }

  absl::StatusOr<Episode> Make(Split split, uint64_t seed, int64_t index) const override {
    RETURN_IF_ERROR(CheckDraw(kName, split, index));
    RandomStream stream = EpisodeStream(kName, "problem", split, seed, index);
    ASSIGN_OR_RETURN(const Puzzle puzzle, Draw(stream, split));
    const std::vector<int> values = Values(puzzle, options_.lines);
    Episode episode;
    episode.task = kName;
    episode.split = split;
    episode.seed = seed;
    episode.index = index;
    episode.prompt = Prompt(puzzle);
    episode.answer = {{"lines", Lines(puzzle, values)}, {"answer", Answer(puzzle, values)}};
    episode.stops = {"$"};
    episode.max_response_bytes =
        static_cast<int32_t>(kLineBytes) * options_.lines + kAnswerTailBytes;
    episode.needs_memory = puzzle.far;
    return episode;
  }

  absl::StatusOr<Score> Grade(const Episode& episode, std::string_view response) const override {
    ASSIGN_OR_RETURN(const Key key, KeyOf(episode));
    const size_t hash = response.find('#');
    const bool answered = hash != response.npos;
    const std::string_view body = response.substr(0, hash);
    const std::string_view got = answered ? response.substr(hash + 1) : std::string_view();
    const int pairs = MatchingPairs(key.answer, got);
    int first_wrong = 0;
    const int lines = MatchingLines(key.lines, body, &first_wrong);

    Score score;
    score.parts["answer"] = static_cast<double>(pairs) / kAsked;
    score.parts["lines"] = static_cast<double>(lines) / options_.lines;
    AddRecall(key.answer, got, options_.lines, score.parts);
    score.reward = (1 - options_.line_weight) * score.parts["answer"] +
                   options_.line_weight * score.parts["lines"];
    score.reason =
        absl::StrFormat("answer %d/%d, lines %d/%d", pairs, kAsked, lines, options_.lines);
    if (lines < options_.lines) score.reason += absl::StrFormat("; line %d is wrong", first_wrong);
    if (!answered) {
      score.reason += "; no '#' before the end";
    } else if (pairs < kAsked) {
      score.reason += absl::StrFormat("; wanted %s, got %s", key.answer,
                                      Quoted(got.substr(0, kAsked * kPairBytes)));
    }
    return score;
  }

  absl::StatusOr<std::string> Demonstrate(const Episode& episode, Noise noise) const override {
    RETURN_IF_ERROR(CheckNoise(kName, noise));
    ASSIGN_OR_RETURN(Key key, KeyOf(episode));
    RandomStream stream =
        EpisodeStream(kName, "answer noise", episode.split, episode.seed, episode.index);
    for (size_t at = 1; at < key.answer.size(); at += kPairBytes) {
      const bool replace = stream.Uniform() < noise.answer;
      const char digit = static_cast<char>('0' + stream.Below(10));
      if (replace) key.answer[at] = digit;
    }
    return key.lines + "#" + key.answer + "$";
  }

 private:
  struct Key {
    std::string lines;   // 9 * options_.lines bytes
    std::string answer;  // "p5l6o9n4"
  };

  absl::StatusOr<Puzzle> Draw(RandomStream& stream, Split split) const {
    Puzzle puzzle;
    puzzle.far = stream.Uniform() < options_.far_share;
    for (int& asked : puzzle.asked) {
      asked = options_.lines - 2 + static_cast<int>(stream.Below(2));
    }
    if (puzzle.far) {
      std::vector<int> pool;
      for (int r = options_.asked_first; r <= options_.asked_last; ++r) pool.push_back(r);
      for (int k = 0; k < kAsked; ++k) {  // the first steps of a Fisher-Yates shuffle
        std::swap(pool[k], pool[k + stream.Below(static_cast<int64_t>(pool.size()) - k)]);
        puzzle.asked[k] = pool[k];
      }
    }
    for (int draw = 0; draw < kMaxSplitDraws; ++draw) {
      for (int& digit : puzzle.seeds) digit = static_cast<int>(stream.Below(10));
      if (SplitOf(SeedText(puzzle)) == split) return puzzle;
    }
    return absl::InternalError(absl::StrFormat("%s: no draw fell into split %s in %d", kName,
                                               SplitName(split), kMaxSplitDraws));
  }

  absl::StatusOr<Key> KeyOf(const Episode& episode) const {
    RETURN_IF_ERROR(CheckEpisode(kName, episode));
    Key key;
    ASSIGN_OR_RETURN(key.lines, AnswerText(episode, "lines"));
    ASSIGN_OR_RETURN(key.answer, AnswerText(episode, "answer"));
    if (key.lines.size() != kLineBytes * options_.lines ||
        key.answer.size() != kPairBytes * kAsked) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: episode.answer has %d bytes of lines and %d of answer, wanted %d and %d", kName,
          key.lines.size(), key.answer.size(), kLineBytes * options_.lines, kPairBytes * kAsked));
    }
    return key;
  }

  const RegistersOptions options_;
};

absl::Status Bad(std::string_view field, double value, std::string_view want) {
  return absl::InvalidArgumentError(
      absl::StrFormat("registers.%s=%g: must be %s", field, value, want));
}

}  // namespace

absl::Status Validate(const RegistersOptions& o) {
  if (o.lines < 4 || o.lines > 22) return Bad("lines", o.lines, "in [4, 22]");
  if (o.asked_first < 0) return Bad("asked_first", o.asked_first, "at least 0");
  if (o.asked_last >= o.lines) return Bad("asked_last", o.asked_last, "below registers.lines");
  if (o.asked_last < o.asked_first + kAsked - 1) {
    return Bad("asked_last", o.asked_last, "at least registers.asked_first + 3");
  }
  if (!(o.far_share >= 0 && o.far_share <= 1)) return Bad("far_share", o.far_share, "in [0, 1]");
  if (!(o.line_weight >= 0 && o.line_weight <= 1)) {
    return Bad("line_weight", o.line_weight, "in [0, 1]");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Environment>> MakeRegisters(const RegistersOptions& options) {
  RETURN_IF_ERROR(Validate(options));
  return std::make_unique<const Registers>(options);
}

}  // namespace palimpsest::env
