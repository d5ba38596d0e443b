#include "common/tokenizer/byte_alphabet.h"

#include <array>

#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

constexpr int kCodePoints = 256 + 68;

struct Alphabet {
  std::array<std::string, 256> symbol;
  std::array<int, kCodePoints> byte;  // -1: no symbol
};

Alphabet MakeAlphabet() {
  Alphabet a;
  a.byte.fill(-1);
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
    const int c = itself ? b : next++;
    AppendUtf8(static_cast<char32_t>(c), a.symbol[b]);
    a.byte[c] = b;
  }
  return a;
}

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet = MakeAlphabet();
  return alphabet;
}

}  // namespace

const std::string& SymbolOfByte(uint8_t byte) { return TheAlphabet().symbol[byte]; }

std::string SymbolsOfBytes(std::string_view bytes) {
  const Alphabet& alphabet = TheAlphabet();
  std::string out;
  out.reserve(bytes.size());
  for (const char c : bytes) out += alphabet.symbol[static_cast<uint8_t>(c)];
  return out;
}

std::optional<std::string> BytesOfSymbols(std::string_view symbols) {
  const Alphabet& alphabet = TheAlphabet();
  std::string out;
  for (size_t at = 0; at < symbols.size();) {
    const Utf8Step step = StepUtf8(symbols, at);
    if (step.code_point >= kCodePoints || alphabet.byte[step.code_point] < 0) return std::nullopt;
    out += static_cast<char>(alphabet.byte[step.code_point]);
    at += step.length;
  }
  return out;
}

}  // namespace palimpsest
