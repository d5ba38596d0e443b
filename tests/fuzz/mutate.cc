#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <iterator>

namespace palimpsest {
namespace {

using namespace std::string_literals;

const std::string kPieces[] = {"-1"s,
                               "0"s,
                               "4294967296"s,
                               "9223372036854775807"s,
                               "18446744073709551616"s,
                               "1e999"s,
                               "nan"s,
                               "null"s,
                               "\""s,
                               "\\"s,
                               "\\ud800"s,
                               "\xff"s,
                               "\xed\xa0\x80"s,
                               "{"s,
                               "}"s,
                               "["s,
                               "]"s,
                               ","s,
                               ":"s,
                               "\n"s,
                               "\t"s,
                               "\0"s,
                               "&a [*a]"s,
                               "<<: "s,
                               "!!"s,
                               "- "s,
                               "\xff\xff\xff\xff\xff\xff\xff\x7f"s,
                               "../"s};

size_t Place(RandomStream& stream, size_t size) {
  return size == 0 ? 0 : static_cast<size_t>(stream.Below(static_cast<int64_t>(size)));
}

// A run inside of `text`, mostly short.
std::string Run(RandomStream& stream, const std::string& text) {
  const size_t longest = stream.Below(8) == 0 ? 4096 : 16;
  return text.substr(Place(stream, text.size()), Place(stream, longest) + 1);
}

void Break(RandomStream& stream, const std::vector<std::string>& good, std::string& text) {
  const size_t at = Place(stream, text.size());
  switch (stream.Below(9)) {
    case 0:
      if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << stream.Below(8)));
      break;
    case 1:
      if (!text.empty()) text[at] = static_cast<char>(stream.Below(256));
      break;
    case 2:
      text.erase(at, Run(stream, text).size());
      break;
    case 3:
      text.insert(at, Run(stream, text));
      break;
    case 4:
      text.insert(at, Run(stream, good[Place(stream, good.size())]));
      break;
    case 5:
      text.insert(at, kPieces[Place(stream, std::size(kPieces))]);
      break;
    case 6: {
      const std::string& piece = kPieces[Place(stream, std::size(kPieces))];
      text.replace(at, std::min(piece.size(), text.size() - at), piece);
      break;
    }
    case 7:
      text.resize(at);
      break;
    default: {  // the same mark many times: depth
      const std::string& piece = kPieces[Place(stream, std::size(kPieces))];
      std::string many;
      for (int64_t n = stream.Below(300); n > 0; --n) many += piece;
      text.insert(at, many);
    }
  }
}

}  // namespace

std::string Mutate(RandomStream& stream, const std::vector<std::string>& good) {
  std::string text = good[Place(stream, good.size())];
  for (int64_t n = 1 + stream.Below(4); n > 0; --n) Break(stream, good, text);
  return text;
}

}  // namespace palimpsest
