#include "services/env/core/arithmetic.h"

#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::env {
namespace {

using Value = std::optional<Rational>;

__int128 Gcd(__int128 a, __int128 b) {
  while (b != 0) a = std::exchange(b, a % b);
  return a < 0 ? -a : a;
}

// denominator != 0; both above the least 128-bit number, so that they can be negated.
Value Reduced(__int128 numerator, __int128 denominator) {
  const __int128 divisor = Gcd(numerator, denominator) * (denominator < 0 ? -1 : 1);
  return Rational{numerator / divisor, denominator / divisor};
}

bool Multiply(__int128 a, __int128 b, __int128* out) {
  constexpr __int128 kLeast = static_cast<__int128>(1) << 127;
  return !__builtin_mul_overflow(a, b, out) && *out != kLeast;
}

bool Add(__int128 a, __int128 b, __int128* out) {
  constexpr __int128 kLeast = static_cast<__int128>(1) << 127;
  return !__builtin_add_overflow(a, b, out) && *out != kLeast;
}

// `op` is one of + - * /; b is not zero under '/'.
Value Apply(char op, const Value& a, const Value& b) {
  if (!a || !b) return std::nullopt;
  __int128 left = 0, right = 0, numerator = 0, denominator = 0;
  if (op == '*' || op == '/') {
    const auto [up, down] = op == '*' ? std::pair(b->numerator, b->denominator)
                                      : std::pair(b->denominator, b->numerator);
    if (!Multiply(a->numerator, up, &numerator)) return std::nullopt;
    if (!Multiply(a->denominator, down, &denominator)) return std::nullopt;
    return Reduced(numerator, denominator);
  }
  const __int128 sign = op == '-' ? -1 : 1;
  if (!Multiply(a->numerator, b->denominator, &left)) return std::nullopt;
  if (!Multiply(b->numerator, a->denominator, &right)) return std::nullopt;
  if (!Multiply(a->denominator, b->denominator, &denominator)) return std::nullopt;
  if (!Add(left, sign * right, &numerator)) return std::nullopt;
  return Reduced(numerator, denominator);
}

// sum := product {(+|-) product}; product := factor {(*|/) factor};
// factor := (+|-) factor | '(' sum ')' | digits
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<Evaluated> Parse() {
    ASSIGN_OR_RETURN(Value value, Sum());
    if (Peek() != 0 || at_ < text_.size()) return Wrong("expected an operator or the end");
    return Evaluated{std::move(literals_), value};
  }

 private:
  absl::Status Wrong(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrFormat("%s at byte %d", what, at_));
  }

  // The next byte after blanks, 0 at the end.
  char Peek() {
    while (at_ < text_.size() && IsBlank(text_[at_])) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool IsBlank(char c) const {
    return c == ' ' || c == '\t' || (parentheses_ > 0 && (c == '\n' || c == '\r'));
  }

  absl::StatusOr<Value> Sum() {
    ASSIGN_OR_RETURN(Value value, Product());
    for (char op = Peek(); op == '+' || op == '-'; op = Peek()) {
      ++at_;
      ASSIGN_OR_RETURN(const Value right, Product());
      value = Apply(op, value, right);
    }
    return value;
  }

  absl::StatusOr<Value> Product() {
    ASSIGN_OR_RETURN(Value value, Factor());
    for (char op = Peek(); op == '*' || op == '/'; op = Peek()) {
      const size_t sign_at = at_++;
      ASSIGN_OR_RETURN(const Value right, Factor());
      if (op == '/' && right && right->numerator == 0) {
        at_ = sign_at;
        return Wrong("division by zero");
      }
      value = Apply(op, value, right);
    }
    return value;
  }

  absl::StatusOr<Value> Factor() {
    const char c = Peek();
    if (c >= '0' && c <= '9') return Number();
    if (c != '+' && c != '-' && c != '(') return Wrong("expected a number");
    if (++depth_ > kMaxExpressionDepth) return Wrong("nested too deeply");
    ++at_;
    absl::StatusOr<Value> value = c == '(' ? Parenthesised() : Factor();
    --depth_;
    if (value.ok() && c == '-') return Apply('-', Rational{}, *value);
    return value;
  }

  absl::StatusOr<Value> Parenthesised() {
    ++parentheses_;
    ASSIGN_OR_RETURN(const Value value, Sum());
    if (Peek() != ')') return Wrong("expected ')'");
    ++at_;
    --parentheses_;
    return value;
  }

  absl::StatusOr<Value> Number() {
    const size_t begin = at_;
    constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
    int64_t number = 0;
    bool fits = true;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      const int digit = text_[at_] - '0';
      if (number > (kMax - digit) / 10) fits = false;
      if (fits) number = number * 10 + digit;
    }
    if (text_[begin] == '0' && number != 0) {
      at_ = begin;
      return Wrong("leading zero");
    }
    literals_.push_back(fits ? number : kMax);
    return fits ? Value(Rational{number, 1}) : std::nullopt;
  }

  const std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  int parentheses_ = 0;
  std::vector<int64_t> literals_;
};

}  // namespace

absl::StatusOr<Evaluated> EvaluateExpression(std::string_view text) {
  if (text.size() > kMaxExpressionBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes are more than %d", text.size(), kMaxExpressionBytes));
  }
  return Parser(text).Parse();
}

}  // namespace palimpsest::env
