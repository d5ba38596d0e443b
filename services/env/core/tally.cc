#include "services/env/core/tally.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::env {
namespace {

constexpr std::string_view kName = "tally";
constexpr size_t kPairBytes = 2;         // "b1"
constexpr size_t kInstructionBytes = 4;  // "b+5;"

std::string Pair(int reg, int digit) {
  return {static_cast<char>('a' + reg), static_cast<char>('0' + digit)};
}

struct Puzzle {
  std::vector<int> start;                           // of each register
  std::vector<std::pair<int, int>> instructions{};  // register, what is added
  std::vector<int> asked{};                         // all registers, in some order
};

std::string StartText(const Puzzle& puzzle) {
  std::string text;
  for (size_t r = 0; r < puzzle.start.size(); ++r) {
    text += Pair(static_cast<int>(r), puzzle.start[r]);
  }
  return text;
}

// What a puzzle comes to, as texts of constant length.
struct Key {
  std::string said;    // the instructions, 4 bytes each
  std::string lines;   // the register after each, 2 bytes each
  std::string answer;  // 2 bytes for each register, in the order asked
};

Key Solve(const Puzzle& puzzle) {
  Key key;
  std::vector<int> values = puzzle.start;
  for (const auto& [reg, added] : puzzle.instructions) {
    int& value = values[static_cast<size_t>(reg)];
    value = (value + added) % 10;
    key.said += absl::StrFormat("%c+%d;", 'a' + reg, added);
    key.lines += Pair(reg, value);
  }
  for (const int reg : puzzle.asked) key.answer += Pair(reg, values[static_cast<size_t>(reg)]);
  return key;
}

// Is some register last named before the last third of the instructions? One that is never named
// stands in the prompt, which is not compacted.
bool NeedsMemory(const Puzzle& puzzle) {
  const size_t old = puzzle.instructions.size() - puzzle.instructions.size() / 3;
  std::vector<size_t> last(puzzle.start.size(), SIZE_MAX);
  for (size_t i = 0; i < puzzle.instructions.size(); ++i) {
    last[static_cast<size_t>(puzzle.instructions[i].first)] = i;
  }
  return std::any_of(last.begin(), last.end(), [&](size_t i) { return i < old; });
}

class Tally final : public Environment {
 public:
  explicit Tally(const TallyOptions& options) : options_(options) {}

  std::string_view name() const override { return kName; }
  std::string_view description() const override {
    return "Registers that instructions add to, one each turn, and a question about all of them "
           "at the end, when a small KV budget has compacted most. Byte-level alphabet.";
  }
  int max_turns() const override { return options_.instructions + 1; }

  absl::StatusOr<Episode> Make(Split split, uint64_t seed, int64_t index) const override {
    RETURN_IF_ERROR(CheckDraw(kName, split, index));
    RandomStream stream = EpisodeStream(kName, "problem", split, seed, index);
    ASSIGN_OR_RETURN(const Puzzle puzzle, Draw(stream, split));
    const Key key = Solve(puzzle);
    Episode episode;
    episode.task = kName;
    episode.split = split;
    episode.seed = seed;
    episode.index = index;
    episode.prompt = "^" + StartText(puzzle) + "|" + key.said.substr(0, kInstructionBytes);
    episode.answer = {{"said", key.said}, {"lines", key.lines}, {"answer", key.answer}};
    episode.stops = {"$"};
    episode.max_response_bytes = static_cast<int32_t>(key.answer.size()) + 1;
    episode.needs_memory = NeedsMemory(puzzle);
    return episode;
  }

  absl::StatusOr<Turn> Step(const Episode& episode, std::string_view response) const override {
    ASSIGN_OR_RETURN(const Key key, KeyOf(episode));
    RETURN_IF_ERROR(CheckNotOver(episode));
    const std::string_view got = response.substr(0, response.find('$'));
    const size_t turn = episode.state.size();
    Turn next{.state = episode.state};
    if (turn == Instructions()) {
      next.state += static_cast<char>('0' + RightPairs(key.answer, got));
      next.done = true;
      return next;
    }
    next.state += got == key.lines.substr(turn * kPairBytes, kPairBytes) ? '1' : '0';
    next.observation = turn + 1 < Instructions()
                           ? key.said.substr((turn + 1) * kInstructionBytes, kInstructionBytes)
                           : Question(key);
    return next;
  }

  absl::StatusOr<Score> Grade(const Episode& episode, std::string_view response) const override {
    RETURN_IF_ERROR(KeyOf(episode).status());
    if (!response.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: response has %d bytes; its turns are stepped", kName, response.size()));
    }
    const std::string& state = episode.state;
    const bool answered = state.size() > Instructions();
    const std::string lines = state.substr(0, Instructions());
    const auto right = static_cast<int>(std::count(lines.begin(), lines.end(), '1'));
    const int pairs = answered ? state.back() - '0' : 0;
    Score score;
    score.parts["answer"] = static_cast<double>(pairs) / options_.registers;
    score.parts["lines"] = static_cast<double>(right) / options_.instructions;
    score.reward = (1 - options_.line_weight) * score.parts["answer"] +
                   options_.line_weight * score.parts["lines"];
    score.reason = absl::StrFormat("answer %d/%d, lines %d/%d", pairs, options_.registers, right,
                                   options_.instructions);
    if (!answered) score.reason += absl::StrFormat("; it ended after %d turns", state.size());
    return score;
  }

  absl::StatusOr<std::string> Demonstrate(const Episode& episode, Noise noise) const override {
    RETURN_IF_ERROR(CheckNoise(kName, noise));
    ASSIGN_OR_RETURN(Key key, KeyOf(episode));
    RETURN_IF_ERROR(CheckNotOver(episode));
    const size_t turn = episode.state.size();
    if (turn < Instructions()) return key.lines.substr(turn * kPairBytes, kPairBytes) + "$";
    RandomStream stream =
        EpisodeStream(kName, "answer noise", episode.split, episode.seed, episode.index);
    for (size_t at = 1; at < key.answer.size(); at += kPairBytes) {
      const bool replace = stream.Uniform() < noise.answer;
      const char digit = static_cast<char>('0' + stream.Below(10));
      if (replace) key.answer[at] = digit;
    }
    return key.answer + "$";
  }

 private:
  size_t Instructions() const { return static_cast<size_t>(options_.instructions); }

  static std::string Question(const Key& key) {
    std::string text = "?";
    for (size_t at = 0; at < key.answer.size(); at += kPairBytes) text += key.answer[at];
    return text + ";";
  }

  static int RightPairs(std::string_view want, std::string_view got) {
    int right = 0;
    for (size_t at = 0; at < want.size() && at < got.size(); at += kPairBytes) {
      right += got.substr(at, kPairBytes) == want.substr(at, kPairBytes);
    }
    return right;
  }

  absl::StatusOr<Puzzle> Draw(RandomStream& stream, Split split) const {
    Puzzle puzzle{.start = std::vector<int>(static_cast<size_t>(options_.registers))};
    for (int i = 0; i < options_.instructions; ++i) {
      const auto reg = static_cast<int>(stream.Below(options_.registers));
      puzzle.instructions.emplace_back(reg, static_cast<int>(stream.Between(1, 9)));
    }
    puzzle.asked.resize(puzzle.start.size());
    std::iota(puzzle.asked.begin(), puzzle.asked.end(), 0);
    for (size_t i = puzzle.asked.size(); i > 1; --i) {
      std::swap(puzzle.asked[i - 1], puzzle.asked[stream.Below(static_cast<int64_t>(i))]);
    }
    for (int draw = 0; draw < kMaxSplitDraws; ++draw) {
      for (int& digit : puzzle.start) digit = static_cast<int>(stream.Below(10));
      if (SplitOf(StartText(puzzle)) == split) return puzzle;
    }
    return absl::InternalError(absl::StrFormat("%s: no draw fell into split %s in %d", kName,
                                               SplitName(split), kMaxSplitDraws));
  }

  absl::StatusOr<Key> KeyOf(const Episode& episode) const {
    RETURN_IF_ERROR(CheckEpisode(kName, episode));
    Key key;
    ASSIGN_OR_RETURN(key.said, AnswerText(episode, "said"));
    ASSIGN_OR_RETURN(key.lines, AnswerText(episode, "lines"));
    ASSIGN_OR_RETURN(key.answer, AnswerText(episode, "answer"));
    if (key.said.size() != kInstructionBytes * Instructions() ||
        key.lines.size() != kPairBytes * Instructions() ||
        key.answer.size() != kPairBytes * static_cast<size_t>(options_.registers)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: episode.answer has %d, %d and %d bytes of said, lines and answer",
                          kName, key.said.size(), key.lines.size(), key.answer.size()));
    }
    RETURN_IF_ERROR(CheckState(episode.state));
    return key;
  }

  absl::Status CheckState(const std::string& state) const {
    bool ours = state.size() <= Instructions() + 1;
    for (size_t i = 0; i < state.size() && ours; ++i) {
      const char most = static_cast<char>('0' + (i < Instructions() ? 1 : options_.registers));
      ours = state[i] >= '0' && state[i] <= most;
    }
    if (ours) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: episode.state=\"%s\" is not ours", kName, Quoted(state)));
  }

  absl::Status CheckNotOver(const Episode& episode) const {
    if (episode.state.size() <= Instructions()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: episode.state: the episode is over", kName));
  }

  const TallyOptions options_;
};

absl::Status Bad(std::string_view field, double value, std::string_view want) {
  return absl::InvalidArgumentError(
      absl::StrFormat("tally.%s=%g: must be in %s", field, value, want));
}

}  // namespace

absl::Status Validate(const TallyOptions& o) {
  if (o.instructions < 2 || o.instructions > 64) {
    return Bad("instructions", o.instructions, "[2, 64]");
  }
  if (o.registers < 2 || o.registers > 9) return Bad("registers", o.registers, "[2, 9]");
  if (!(o.line_weight >= 0 && o.line_weight <= 1)) {
    return Bad("line_weight", o.line_weight, "[0, 1]");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Environment>> MakeTally(const TallyOptions& options) {
  RETURN_IF_ERROR(Validate(options));
  return std::make_unique<const Tally>(options);
}

}  // namespace palimpsest::env
