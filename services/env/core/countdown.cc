#include "services/env/core/countdown.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "services/env/core/arithmetic.h"

namespace palimpsest::env {
namespace {

constexpr std::string_view kName = "countdown";
constexpr std::string_view kOpen = "<answer>";
constexpr std::string_view kClose = "</answer>";
// Bound on chains drawn until one ends in the target's range; about one in five does by default.
constexpr int kMaxChains = 100000;

struct Problem {
  std::vector<int64_t> numbers;
  int64_t target = 0;
  std::string expression;
};

// value op operand, written with the parentheses it needs.
struct Chain {
  int64_t value = 0;
  std::string text;
  bool sum = false;  // the last operation was + or -

  void Append(char op, int64_t operand) {
    const bool product = op == '*' || op == '/';
    if (product && sum) text = "(" + text + ")";
    text += product ? std::string(1, op) : absl::StrFormat(" %c ", op);
    text += absl::StrFormat("%d", operand);
    sum = !product;
    if (op == '+') value += operand;
    if (op == '-') value -= operand;
    if (op == '*') value *= operand;
    if (op == '/') value /= operand;
  }
};

void Shuffle(RandomStream& stream, std::vector<int64_t>& items) {
  for (size_t left = items.size(); left > 1; --left) {
    std::swap(items[left - 1], items[stream.Below(static_cast<int64_t>(left))]);
  }
}

// From left to right, an operator by chance for each further number. A division takes, of the
// numbers still ahead in random order, the first that divides evenly (it overwrites the one whose
// turn it is, and may come again later); where none does it becomes a subtraction.
Problem DrawChain(const CountdownOptions& options, int terms, RandomStream& stream) {
  Problem problem;
  std::vector<int64_t>& numbers = problem.numbers;
  for (int i = 0; i < terms; ++i) {
    numbers.push_back(stream.Between(options.min_value, options.max_value));
  }
  Chain chain{numbers[0], absl::StrFormat("%d", numbers[0])};
  for (int i = 1; i < terms; ++i) {
    char op = "+-*/"[stream.Below(4)];
    if (op == '/') {
      std::vector<int64_t> ahead(numbers.begin() + i, numbers.end());
      Shuffle(stream, ahead);
      const auto even =
          std::find_if(ahead.begin(), ahead.end(), [&](int64_t n) { return chain.value % n == 0; });
      if (even == ahead.end()) op = '-';
      if (even != ahead.end()) numbers[i] = *even;
    }
    chain.Append(op, numbers[i]);
  }
  problem.target = chain.value;
  problem.expression = std::move(chain.text);
  return problem;
}

absl::StatusOr<Problem> DrawProblem(const CountdownOptions& options, RandomStream& stream) {
  const int terms = static_cast<int>(stream.Between(options.min_numbers, options.max_numbers));
  for (int attempt = 0; attempt < kMaxChains; ++attempt) {
    Problem problem = DrawChain(options, terms, stream);
    if (problem.target < options.min_target || problem.target > options.max_target) continue;
    Shuffle(stream, problem.numbers);
    return problem;
  }
  return absl::OutOfRangeError(absl::StrFormat(
      "countdown.min_target=%d, max_target=%d: no chain of %d numbers ended there in %d draws",
      options.min_target, options.max_target, terms, kMaxChains));
}

// Order and wording do not make another problem.
std::string Content(const Problem& problem) {
  std::vector<int64_t> sorted = problem.numbers;
  std::sort(sorted.begin(), sorted.end());
  return absl::StrFormat("%s=%d", absl::StrJoin(sorted, ","), problem.target);
}

std::string Times(int64_t count) {
  if (count == 1) return "once";
  return count == 2 ? "twice" : absl::StrFormat("%d times", count);
}

// The first difference between the numbers written and the numbers given; nullopt if none.
std::optional<std::string> NumbersReason(std::span<const int64_t> given,
                                         std::span<const int64_t> used) {
  for (int64_t n : used) {
    const int64_t have = std::count(given.begin(), given.end(), n);
    const int64_t took = std::count(used.begin(), used.end(), n);
    if (have == 0) return absl::StrFormat("number %d is not given", n);
    if (took > have) {
      const std::string limit = have == 1 ? "" : ", given " + Times(have);
      return absl::StrFormat("number %d used %s%s", n, Times(took), limit);
    }
  }
  for (int64_t n : given) {
    const int64_t have = std::count(given.begin(), given.end(), n);
    const int64_t took = std::count(used.begin(), used.end(), n);
    if (took == 0) return absl::StrFormat("number %d not used", n);
    if (took < have) {
      return absl::StrFormat("number %d used %s, given %s", n, Times(took), Times(have));
    }
  }
  return std::nullopt;
}

std::string ValueText(const std::optional<Rational>& value) {
  return value ? absl::StrFormat("%.10g", value->ToDouble()) : "beyond 128 bits";
}

class Countdown final : public Environment {
 public:
  explicit Countdown(const CountdownOptions& options) : options_(options) {}

  std::string_view name() const override { return kName; }
  std::string_view description() const override {
    return "Reach a target number with every given number once and + - * /; problems and scores "
           "as in reasoning-gym's countdown.";
  }

  absl::StatusOr<Episode> Make(Split split, uint64_t seed, int64_t index) const override {
    RETURN_IF_ERROR(CheckDraw(kName, split, index));
    RandomStream stream = EpisodeStream(kName, "problem", split, seed, index);
    for (int draw = 0; draw < kMaxSplitDraws; ++draw) {
      ASSIGN_OR_RETURN(const Problem problem, DrawProblem(options_, stream));
      if (SplitOf(Content(problem)) != split) continue;
      Episode episode;
      episode.task = kName;
      episode.split = split;
      episode.seed = seed;
      episode.index = index;
      episode.prompt = absl::StrFormat(
          "Numbers: %s. Target: %d.\n"
          "Combine all the numbers, each exactly once, with + - * / and parentheses so that the "
          "result is the target.\n"
          "Write the expression alone, without '=', between <answer> and </answer>.\n",
          absl::StrJoin(problem.numbers, ", "), problem.target);
      episode.answer = {{"numbers", absl::StrJoin(problem.numbers, ",")},
                        {"target", absl::StrFormat("%d", problem.target)},
                        {"expression", problem.expression}};
      episode.max_response_bytes = options_.max_response_bytes;
      return episode;
    }
    return absl::OutOfRangeError(absl::StrFormat("%s: no draw fell into split %s in %d", kName,
                                                 SplitName(split), kMaxSplitDraws));
  }

  absl::StatusOr<Score> Grade(const Episode& episode, std::string_view response) const override {
    RETURN_IF_ERROR(CheckEpisode(kName, episode));
    ASSIGN_OR_RETURN(const std::string numbers_text, AnswerText(episode, "numbers"));
    ASSIGN_OR_RETURN(const std::string target_text, AnswerText(episode, "target"));
    std::vector<int64_t> numbers;
    for (const auto& part : absl::StrSplit(numbers_text, ',')) {
      if (!absl::SimpleAtoi(part, &numbers.emplace_back()) || numbers.back() <= 0) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: episode.answer.numbers=\"%s\" is no list of positive integers",
                            kName, Quoted(numbers_text)));
      }
    }
    int64_t target = 0;
    if (!absl::SimpleAtoi(target_text, &target) || target <= 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: episode.answer.target=\"%s\" is no positive integer", kName, Quoted(target_text)));
    }
    return ScoreCountdown(numbers, target, ExtractAnswer(response));
  }

  absl::StatusOr<std::string> Demonstrate(const Episode& episode, Noise noise) const override {
    RETURN_IF_ERROR(CheckEpisode(kName, episode));
    if (noise.answer != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: noise.answer=%g: demonstrations are exact only", kName, noise.answer));
    }
    ASSIGN_OR_RETURN(const std::string expression, AnswerText(episode, "expression"));
    return absl::StrFormat("%s%s%s", kOpen, expression, kClose);
  }

 private:
  const CountdownOptions options_;
};

absl::Status Bad(std::string_view field, int value, std::string_view want) {
  return absl::InvalidArgumentError(
      absl::StrFormat("countdown.%s=%d: must be %s", field, value, want));
}

}  // namespace

std::string_view ExtractAnswer(std::string_view response) {
  std::string_view answer = response;
  for (size_t at = response.find(kOpen); at != response.npos; at = response.find(kOpen, at)) {
    const size_t begin = at + kOpen.size();
    const size_t end = response.find(kClose, begin);
    if (end == response.npos) break;
    answer = response.substr(begin, end - begin);
    at = end + kClose.size();
  }
  const absl::string_view stripped = absl::StripAsciiWhitespace({answer.data(), answer.size()});
  return {stripped.data(), stripped.size()};
}

Score ScoreCountdown(std::span<const int64_t> numbers, int64_t target, std::string_view answer) {
  Score score{kNoExpression, "", {{"expression", 0}, {"numbers", 0}, {"value", 0}}};
  const absl::string_view text = absl::StripAsciiWhitespace({answer.data(), answer.size()});
  if (text.empty()) {
    score.reason = "no answer";
    return score;
  }
  const absl::StatusOr<Evaluated> evaluated = EvaluateExpression({text.data(), text.size()});
  if (!evaluated.ok()) {
    score.reason =
        absl::StrFormat("not an expression: %s", std::string(evaluated.status().message()));
    return score;
  }
  const double wanted = static_cast<double>(target);
  const bool hit =
      evaluated->value && std::abs(evaluated->value->ToDouble() - wanted) <= 1e-6 + 1e-5 * wanted;
  const std::optional<std::string> numbers_wrong = NumbersReason(numbers, evaluated->literals);
  score.parts = {
      {"expression", 1}, {"numbers", numbers_wrong ? 0.0 : 1.0}, {"value", hit ? 1.0 : 0.0}};
  score.reward = hit && !numbers_wrong ? kSolved : kExpression;
  if (numbers_wrong) {
    score.reason = *numbers_wrong;
  } else if (!hit) {
    score.reason = absl::StrFormat("value %s is not %d", ValueText(evaluated->value), target);
  } else {
    score.reason = "solved";
  }
  return score;
}

absl::Status Validate(const CountdownOptions& o) {
  if (o.min_numbers < 2) return Bad("min_numbers", o.min_numbers, "at least 2");
  if (o.max_numbers < o.min_numbers)
    return Bad("max_numbers", o.max_numbers, "at least min_numbers");
  if (o.min_value < 1) return Bad("min_value", o.min_value, "at least 1");
  if (o.max_value < o.min_value) return Bad("max_value", o.max_value, "at least min_value");
  if (o.max_numbers * std::log10(o.max_value) > 18) {
    return Bad("max_numbers", o.max_numbers, "such that max_value ^ max_numbers <= 10^18");
  }
  if (o.min_target < 1) return Bad("min_target", o.min_target, "at least 1");
  if (o.max_target < o.min_target) return Bad("max_target", o.max_target, "at least min_target");
  if (o.max_response_bytes < 64) {
    return Bad("max_response_bytes", o.max_response_bytes, "at least 64");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Environment>> MakeCountdown(const CountdownOptions& options) {
  RETURN_IF_ERROR(Validate(options));
  return std::make_unique<const Countdown>(options);
}

}  // namespace palimpsest::env
