#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace palimpsest {

// Byte-level BPE writes each byte as one printable character, its symbol (as GPT-2 did): the bytes
// 33-126, 161-172 and 174-255 stand for themselves, the other 68 become U+0100, U+0101, ... in
// order.

const std::string& SymbolOfByte(uint8_t byte);  // UTF-8

std::string SymbolsOfBytes(std::string_view bytes);

// nullopt when some character is no symbol. `symbols` is valid UTF-8.
std::optional<std::string> BytesOfSymbols(std::string_view symbols);

}  // namespace palimpsest
