#pragma once

#include <string>
#include <vector>

// What the targets share beside libFuzzer's own entry point.
namespace palimpsest::fuzz {

// A finding: prints the reason and aborts, so that libFuzzer keeps the input.
[[noreturn]] void Broken(const std::string& reason);

// PALIMPSEST_FUZZ_PLANTED is set: the target has a defect that fuzzing must find (control.sh).
bool Planted();

// Of each target: inputs that reach deep, to begin with.
std::vector<std::string> Seeds();

}  // namespace palimpsest::fuzz
