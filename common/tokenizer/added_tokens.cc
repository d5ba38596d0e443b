#include "common/tokenizer/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

bool IsSpace(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_WHITE_SPACE); }

// A word character as UTS #18 has it.
bool IsWord(char32_t c) {
  const auto u = static_cast<UChar32>(c);
  constexpr uint32_t kMasks = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(u, UCHAR_ALPHABETIC) || (U_GET_GC_MASK(u) & kMasks) != 0 ||
         u_hasBinaryProperty(u, UCHAR_JOIN_CONTROL);
}

size_t BeginOfLastChar(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWord(StepUtf8(text, BeginOfLastChar(text)).code_point);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWord(StepUtf8(text, 0).code_point);
}

size_t SpaceAtEnd(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t at = BeginOfLastChar(text.substr(0, end));
    if (!IsSpace(StepUtf8(text, at).code_point)) break;
    end = at;
  }
  return text.size() - end;
}

size_t SpaceAtStart(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = StepUtf8(text, at);
    if (!IsSpace(step.code_point)) break;
    at += step.length;
  }
  return at;
}

}  // namespace

void AddedTokenFinder::Add(const AddedToken& token, std::string_view text) {
  if (text.empty()) return;
  begins_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t edge = (uint64_t{node} << 8) | static_cast<uint8_t>(c);
    const auto [it, fresh] =
        children_.try_emplace(edge, static_cast<uint32_t>(token_of_node_.size()));
    if (fresh) token_of_node_.push_back(-1);
    node = it->second;
  }
  if (token_of_node_[node] >= 0) return;
  token_of_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

std::pair<int32_t, size_t> AddedTokenFinder::LongestAt(std::string_view text, size_t at) const {
  std::pair<int32_t, size_t> longest = {-1, at};
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto it = children_.find((uint64_t{node} << 8) | static_cast<uint8_t>(text[i]));
    if (it == children_.end()) break;
    node = it->second;
    if (token_of_node_[node] >= 0) longest = {token_of_node_[node], i + 1};
  }
  return longest;
}

std::vector<AddedTokenFinder::Segment> AddedTokenFinder::Split(std::string_view text) const {
  std::vector<Segment> segments;
  size_t done = 0;  // end of the last token with the space it took
  for (size_t at = 0; at < text.size();) {
    const auto [index, end] = begins_[static_cast<uint8_t>(text[at])]
                                  ? LongestAt(text, at)
                                  : std::pair<int32_t, size_t>{-1, at};
    if (index < 0) {
      ++at;
      continue;
    }
    const size_t match_begin = at;
    at = end;
    const AddedToken& token = tokens_[index];
    if (token.single_word &&
        (EndsWithWord(text.substr(0, match_begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    size_t begin = match_begin;
    if (token.lstrip) begin = std::max(begin - SpaceAtEnd(text.substr(0, begin)), done);
    const size_t stop = end + (token.rstrip ? SpaceAtStart(text.substr(end)) : 0);
    if (done < begin) segments.push_back({kPlain, text.substr(done, begin - done)});
    segments.push_back({token.id, text.substr(match_begin, end - match_begin)});
    done = stop;
  }
  if (done < text.size()) segments.push_back({kPlain, text.substr(done)});
  return segments;
}

}  // namespace palimpsest
