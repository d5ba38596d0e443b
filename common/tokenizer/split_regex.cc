#include "common/tokenizer/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cctype>
#include <cstdint>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

constexpr uint32_t kHeapLimitKib =
    256 * 1024;  // of the interpreter, when the JIT stack is too small
constexpr uint32_t kMatchLimit = 50'000'000;

struct Free {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};

// Rewrites one pattern from Oniguruma's language to PCRE2's.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\') {
        RETURN_IF_ERROR(Escape());
      } else if (in_class_) {
        RETURN_IF_ERROR(InClass());
      } else {
        RETURN_IF_ERROR(Outside());
      }
    }
    return std::move(out_);
  }

 private:
  char Peek(size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  bool Next(std::string_view word) const { return in_.substr(at_).starts_with(word); }

  void Copy(size_t count) {
    out_ += in_.substr(at_, count);
    at_ += count;
  }
  void Replace(size_t count, std::string_view with) {
    out_ += with;
    at_ += count;
  }
  absl::Status Refuse(size_t count) const {
    return absl::InvalidArgumentError(absl::StrFormat("regex construct \"%s\" is not supported",
                                                      std::string(in_.substr(at_, count))));
  }

  absl::Status Escape() {
    const char c = Peek(1);
    switch (c) {
      case 's':
        Replace(2, "\\p{White_Space}");  // PCRE2's own \s adds U+180E
        return absl::OkStatus();
      case 'S':
        Replace(2, "\\P{White_Space}");
        return absl::OkStatus();
      case 'd':
        Replace(2, "\\p{Nd}");
        return absl::OkStatus();
      case 'D':
        Replace(2, "\\P{Nd}");
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Category();
      case 'x':
      case 'u':
        return CodePoint();
      default:
        if (c != '\0' && (std::string_view("rntf").find(c) != std::string_view::npos ||
                          std::ispunct(static_cast<unsigned char>(c)))) {
          Copy(2);
          return absl::OkStatus();
        }
        return Refuse(2);
    }
  }

  // General categories only: a script's name means Script there and Script_Extensions here.
  absl::Status Category() {
    size_t letters = 0;
    if (Peek(2) == '{') {
      while (std::isalpha(static_cast<unsigned char>(Peek(3 + letters)))) ++letters;
    }
    const bool category = (letters == 1 || letters == 2) && Peek(3 + letters) == '}';
    if (!category) return Refuse(4 + letters);
    Copy(4 + letters);
    return absl::OkStatus();
  }

  absl::Status CodePoint() {
    const bool braces = Peek(1) == 'x' && Peek(2) == '{';
    if (Peek(1) == 'x' && !braces) return Refuse(4);  // \xHH is a byte there
    const size_t begin = braces ? 3 : 2;
    size_t digits = 0;
    while (digits < 6 && std::isxdigit(static_cast<unsigned char>(Peek(begin + digits)))) ++digits;
    if (!braces) digits = digits >= 4 ? 4 : 0;
    if (digits == 0 || (braces && Peek(begin + digits) != '}')) return Refuse(begin + digits);
    const std::string_view hex = in_.substr(at_ + begin, digits);
    Replace(begin + digits + (braces ? 1 : 0), absl::StrFormat("\\x{%s}", std::string(hex)));
    return absl::OkStatus();
  }

  absl::Status InClass() {
    if (Next("[") || Next("&&")) return Refuse(2);  // nested classes, intersections
    if (Peek(0) == ']') in_class_ = false;
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Outside() {
    if (Peek(0) == '[') {
      in_class_ = true;
      Copy(Peek(1) == '^' ? 2 : 1);
      return Peek(0) == ']' ? Refuse(1) : absl::OkStatus();
    }
    if (Next("^") || Next("$")) return Refuse(1);  // there they are always about lines
    if (Next("(*")) return Refuse(2);
    if (Next("{,") || Next("}+")) return Refuse(2);
    if (!Next("(?")) {
      Copy(1);
      return absl::OkStatus();
    }
    constexpr std::array<std::string_view, 7> kGroups = {"(?:",  "(?i:", "(?=", "(?!",
                                                         "(?<=", "(?<!", "(?>"};
    for (const std::string_view group : kGroups) {
      if (Next(group)) {
        Copy(group.size());
        return absl::OkStatus();
      }
    }
    return Refuse(4);
  }

  std::string_view in_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string MessageOf(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

struct SplitRegex::Code {
  std::string pattern;
  std::unique_ptr<pcre2_code, Free> code;
  std::unique_ptr<pcre2_match_context, Free> context;

  // Finds the first match at or after `from`; PCRE2's answer, < 0 for none or an error.
  int Match(std::string_view text, size_t from, pcre2_match_data* data) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, data,
                         context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       data, context.get());
    }
    return rc;
  }
};

absl::StatusOr<SplitRegex> SplitRegex::Compile(std::string_view pattern) {
  absl::StatusOr<std::string> translated = Translator(pattern).Run();
  if (!translated.ok()) {
    return absl::InvalidArgumentError(absl::StrFormat("regex \"%s\": %s", std::string(pattern),
                                                      std::string(translated.status().message())));
  }
  return CompileWith(*translated, pattern, /*literal=*/false);
}

absl::StatusOr<SplitRegex> SplitRegex::CompileLiteral(std::string_view text) {
  return CompileWith(std::string(text), text, /*literal=*/true);
}

absl::StatusOr<SplitRegex> SplitRegex::CompileWith(const std::string& translated,
                                                   std::string_view pattern, bool literal) {
  std::unique_ptr<pcre2_compile_context, Free> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->pattern = std::string(pattern);
  const uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP);
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 options, &error, &offset, context.get()));
  if (code->code == nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat("regex \"%s\": %s at %d", code->pattern,
                                                      MessageOf(error), static_cast<int>(offset)));
  }
  // A machine or pattern without JIT falls back to the interpreter: same matches, slower.
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  code->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(code->context.get(), kMatchLimit);
  pcre2_set_heap_limit(code->context.get(), kHeapLimitKib);
  return SplitRegex(std::move(code));
}

absl::StatusOr<std::vector<SplitRegex::Cut>> SplitRegex::Split(std::string_view text) const {
  std::vector<Cut> cuts;
  std::unique_ptr<pcre2_match_data, Free> data(
      pcre2_match_data_create_from_pattern(code_->code.get(), nullptr));
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
  size_t done = 0;           // end of the last match
  bool after_match = false;  // an empty match may not stand at the end of the match before it
  for (size_t from = 0; from <= text.size();) {
    const int rc = code_->Match(text, from, data.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "regex \"%s\" on a text of %d bytes: %s", code_->pattern, text.size(), MessageOf(rc)));
    }
    const size_t begin = ends[0], end = ends[1];
    if (begin == end && after_match && end == done) {
      from += from < text.size() ? StepUtf8(text, from).length : 1;
      continue;
    }
    if (done < begin) cuts.push_back({text.substr(done, begin - done), false});
    if (begin < end) cuts.push_back({text.substr(begin, end - begin), true});
    done = from = end;
    after_match = true;
  }
  if (done < text.size()) cuts.push_back({text.substr(done), false});
  return cuts;
}

}  // namespace palimpsest
