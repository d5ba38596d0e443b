#include "common/tokenizer/template_text.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"

namespace palimpsest {
namespace {

struct Token {
  enum class Kind { kWord, kText, kSign } kind;
  std::string text;  // of kText: what the literal stands for

  bool Is(std::string_view sign) const { return kind != Kind::kText && text == sign; }
};
using Tokens = std::vector<Token>;

struct Piece {
  enum class Kind { kData, kEmit, kBlock } kind;
  std::string data;
  Tokens tokens;
};

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }
bool IsWord(char c) { return c == '_' || absl::ascii_isalnum(static_cast<unsigned char>(c)); }

constexpr std::array<std::pair<char, char>, 6> kEscapes = {
    {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'"', '"'}, {'\'', '\''}, {'\\', '\\'}}};

// Cuts a template at its tags.
class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<Piece>> Run() {
    while (at_ < text_.size()) {
      const size_t open = NextTag();
      AddData(open);
      if (open == std::string_view::npos) break;
      at_ = open + 2;
      const char kind = text_[open + 1];
      if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
      if (kind == '#') {
        const size_t end = text_.find("#}", at_);
        if (end == std::string_view::npos) return Unfinished("comment", open);
        at_ = end;
        const char sign = end > open + 3 ? text_[end - 1] : ' ';
        Close(sign, /*trims=*/true);
      } else {
        RETURN_IF_ERROR(ReadTag(open, kind == '%'));
      }
    }
    return std::move(pieces_);
  }

 private:
  absl::Status Unfinished(const char* what, size_t at) const {
    return absl::InvalidArgumentError(
        absl::StrFormat("the %s that begins at byte %d does not end", what, at));
  }

  size_t NextTag() const {
    for (size_t i = at_; i + 1 < text_.size(); ++i) {
      if (text_[i] == '{' && std::string_view("{%#").find(text_[i + 1]) != std::string_view::npos) {
        return i;
      }
    }
    return std::string_view::npos;
  }

  // The text before the tag at `open`, cut as the tag wants it.
  void AddData(size_t open) {
    std::string_view data = text_.substr(at_, open == std::string_view::npos ? open : open - at_);
    if (open != std::string_view::npos) {
      const char sign = open + 2 < text_.size() ? text_[open + 2] : ' ';
      const size_t line = data.rfind('\n') + 1;  // npos + 1 = 0
      if (sign == '-') {
        while (!data.empty() && IsSpace(data.back())) data.remove_suffix(1);
      } else if (text_[open + 1] != '{' && sign != '+' && (line > 0 || line_starts_) &&
                 std::all_of(data.begin() + static_cast<ptrdiff_t>(line), data.end(), IsSpace)) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) pieces_.push_back({Piece::Kind::kData, std::string(data), {}});
  }

  // at_ stands at the two closing characters; `sign` is what stands before them.
  void Close(char sign, bool trims) {
    at_ += 2;
    const size_t after = at_;
    if (sign == '-') {
      while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
    } else if (trims && sign != '+' && at_ < text_.size() && text_[at_] == '\n') {
      ++at_;
    }
    line_starts_ = at_ > after && text_[at_ - 1] == '\n';
  }

  absl::Status ReadTag(size_t open, bool block) {
    const std::string_view close = block ? "%}" : "}}";
    Tokens tokens;
    int depth = 0;  // of braces: {{ {"a": {}} }}
    for (;;) {
      while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
      if (at_ >= text_.size()) return Unfinished("tag", open);
      const std::string_view rest = text_.substr(at_);
      const bool signed_end = (rest[0] == '-' || rest[0] == '+') && rest.substr(1, 2) == close;
      if (depth == 0 && (signed_end || rest.substr(0, 2) == close)) {
        const char sign = signed_end ? rest[0] : ' ';
        at_ += signed_end ? 1 : 0;
        Close(sign, block);
        pieces_.push_back(
            {block ? Piece::Kind::kBlock : Piece::Kind::kEmit, "", std::move(tokens)});
        return absl::OkStatus();
      }
      if (rest[0] == '\'' || rest[0] == '"') {
        RETURN_IF_ERROR(ReadLiteral(tokens));
        continue;
      }
      depth += rest[0] == '{' ? 1 : rest[0] == '}' ? -1 : 0;
      tokens.push_back(ReadPlain(rest));
      at_ += tokens.back().text.size();
    }
  }

  static Token ReadPlain(std::string_view rest) {
    if (IsWord(rest[0])) {
      const auto end = std::find_if_not(rest.begin(), rest.end(), IsWord);
      return {Token::Kind::kWord, std::string(rest.begin(), end)};
    }
    for (const std::string_view sign : {"==", "!=", "<=", ">=", "//", "**"}) {
      if (rest.substr(0, 2) == sign) return {Token::Kind::kSign, std::string(sign)};
    }
    return {Token::Kind::kSign, std::string(1, rest[0])};
  }

  absl::Status ReadLiteral(Tokens& tokens) {
    const size_t open = at_;
    const char quote = text_[at_++];
    std::string literal;
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] != '\\' || at_ + 1 == text_.size()) {
        literal += text_[at_];
        continue;
      }
      const char name = text_[++at_];
      const auto* escape = std::find_if(kEscapes.begin(), kEscapes.end(),
                                        [name](const auto& e) { return e.first == name; });
      if (escape == kEscapes.end()) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "the escape at byte %d is not one of \\n \\t \\r \\\" \\' \\\\", at_ - 1));
      }
      literal += escape->second;
    }
    if (at_ == text_.size()) return Unfinished("literal", open);
    ++at_;
    tokens.push_back({Token::Kind::kText, std::move(literal)});
    return absl::OkStatus();
  }

  const std::string_view text_;
  size_t at_ = 0;
  bool line_starts_ = true;
  std::vector<Piece> pieces_;
};

bool IsName(const std::string& text) {
  return !text.empty() && !absl::ascii_isdigit(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), IsWord);
}

// x["y"] -> x.y, and "a" + "b" -> "ab" unless something binds closer to "b".
Tokens Simplified(const Tokens& in) {
  Tokens out;
  for (size_t i = 0; i < in.size(); ++i) {
    const auto is = [&](size_t k, std::string_view sign) {
      return k < in.size() && in[k].Is(sign);
    };
    const bool text_next = i + 1 < in.size() && in[i + 1].kind == Token::Kind::kText;
    const bool after_value =
        !out.empty() && (out.back().kind == Token::Kind::kWord || out.back().Is("]"));
    if (is(i, "[") && after_value && text_next && is(i + 2, "]") && IsName(in[i + 1].text)) {
      out.push_back({Token::Kind::kSign, "."});
      out.push_back({Token::Kind::kWord, in[i + 1].text});
      i += 2;
    } else if (is(i, "+") && text_next && !out.empty() && out.back().kind == Token::Kind::kText &&
               !is(i + 2, "|") && !is(i + 2, ".") && !is(i + 2, "[") && !is(i + 2, "*") &&
               !(out.size() >= 2 && out[out.size() - 2].Is("|"))) {
      out.back().text += in[++i].text;
    } else {
      out.push_back(in[i]);
    }
  }
  return out;
}

std::string Spelled(const Tokens& tokens) {
  std::string out;
  std::string_view last = "(";
  for (const Token& token : tokens) {
    const bool text = token.kind == Token::Kind::kText;
    const bool close_after = last == "." || last == "(" || last == "[";
    const bool close_before =
        !text && std::string_view(".,()[]:").find(token.text) != std::string_view::npos;
    if (!close_after && !close_before) out += ' ';
    out += text ? QuoteLiteral(token.text) : token.text;
    last = text ? std::string_view("\"") : std::string_view(token.text);
  }
  return out;
}

// The terms of a sum of texts; one term when something binds looser than the sum.
std::vector<Tokens> Terms(const Tokens& tokens) {
  constexpr std::array kLooser = {"if", "or", "and", "not", "in", "==", "!=", "<", ">", "<=", ">="};
  std::vector<Tokens> terms(1);
  int depth = 0;
  for (const Token& token : tokens) {
    const auto is = [&](const char* sign) { return token.Is(sign); };
    depth += is("(") || is("[") || is("{") ? 1 : is(")") || is("]") || is("}") ? -1 : 0;
    if (depth == 0 && std::any_of(kLooser.begin(), kLooser.end(), is)) return {tokens};
    if (depth == 0 && is("+")) {
      terms.emplace_back();
    } else {
      terms.back().push_back(token);
    }
  }
  return terms;
}

// Conditions and loops that nothing without tools gets into: `tools` is none, no message has calls.
bool NeedsTools(const std::string& head) {
  constexpr std::array kHeads = {
      "tools",
      "tools is not none",
      "tools is not none and not tools_in_user_message",
      "tools_in_user_message and not tools is none",
      "custom_tools is defined",
      "builtin_tools is defined",
      "builtin_tools is defined or tools is not none",
      "message.tool_calls",
      "message.tool_calls is defined and message.tool_calls",
      "\"tool_calls\" in message",
      "tool_call in message.tool_calls",
  };
  return std::find(kHeads.begin(), kHeads.end(), head) != kHeads.end();
}

// Collects statements, without those that need tools.
class Statements {
 public:
  void Emit(const Tokens& tokens) {
    if (Dead()) return;
    for (Tokens& term : Terms(tokens)) {
      const bool text = term.size() == 1 && term[0].kind == Token::Kind::kText;
      if (text && !emit_.empty() && emit_.back().size() == 1 &&
          emit_.back()[0].kind == Token::Kind::kText) {
        emit_.back()[0].text += term[0].text;
      } else {
        emit_.push_back(std::move(term));
      }
    }
  }

  void Block(const Tokens& tokens) {
    const std::string word = tokens.empty() ? "" : tokens[0].text;
    const Tokens rest(tokens.begin() + (tokens.empty() ? 0 : 1), tokens.end());
    if (word == "if" || word == "for") {
      open_.push_back({.loop = word == "for", .inside_dead = Dead()});
      Branch(word, rest);
    } else if (word == "elif" || word == "else" || word == "endfor" || word == "endif") {
      const bool end = word.starts_with("end");
      const bool in_place = !open_.empty() && open_.back().loop == (word == "endfor") &&
                            (word == "elif" || rest.empty());
      if (!in_place) return Add(word + " out of place");
      if (!end) return Branch(word, rest);
      const Open closed = open_.back();
      open_.pop_back();
      if (closed.kept && !closed.inside_dead) Add(word);
    } else if (!Dead()) {
      Add(Spelled(tokens));
    }
  }

  std::vector<std::string> Done() {
    Flush();
    if (!open_.empty()) lines_.push_back("a block that does not end");
    return std::move(lines_);
  }

 private:
  struct Open {
    bool loop;
    bool inside_dead;   // as a whole
    bool dead = false;  // the branch that is being read
    bool kept = false;  // a branch before it was kept
  };

  bool Dead() const { return !open_.empty() && (open_.back().inside_dead || open_.back().dead); }

  // The first branch that is kept is an `if`; an `else` with nothing before it needs no name.
  void Branch(const std::string& word, const Tokens& condition) {
    Open& open = open_.back();
    const std::string head = Spelled(condition);
    open.dead = word != "else" && NeedsTools(head);
    if (open.dead || open.inside_dead || (word == "else" && !open.kept)) return;
    if (word == "else") return Add(word);
    Add((open.kept || open.loop ? word : "if") + " " + head);
    open.kept = true;
  }

  void Add(std::string line) {
    Flush();
    lines_.push_back(std::move(line));
  }
  void Flush() {
    if (emit_.empty()) return;
    std::string line = "emit";
    for (const Tokens& term : emit_) line += " " + Spelled(term);
    emit_.clear();
    lines_.push_back(std::move(line));
  }

  std::vector<Open> open_;
  std::vector<Tokens> emit_;  // terms of emits with nothing between them
  std::vector<std::string> lines_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> TemplateStatements(std::string_view text) {
  std::string lines = absl::StrReplaceAll(absl::string_view(text.data(), text.size()),
                                          {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!lines.empty() && lines.back() == '\n') lines.pop_back();
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, Lexer(lines).Run());
  Statements statements;
  for (const Piece& piece : pieces) {
    if (piece.kind == Piece::Kind::kData) {
      statements.Emit({{Token::Kind::kText, piece.data}});
    } else if (piece.kind == Piece::Kind::kEmit) {
      statements.Emit(Simplified(piece.tokens));
    } else {
      statements.Block(Simplified(piece.tokens));
    }
  }
  return statements.Done();
}

std::string QuoteLiteral(std::string_view text) {
  return "\"" +
         absl::StrReplaceAll(
             absl::string_view(text.data(), text.size()),
             {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}, {"\t", "\\t"}, {"\r", "\\r"}}) +
         "\"";
}

std::string UnquoteLiteral(std::string_view quoted) {
  return absl::StrReplaceAll(
      absl::string_view(quoted.data(), quoted.size()),
      {{"\\\\", "\\"}, {"\\\"", "\""}, {"\\n", "\n"}, {"\\t", "\t"}, {"\\r", "\r"}});
}

}  // namespace palimpsest
