#pragma once

#include <string>
#include <vector>

namespace palimpsest {

// "/package.Service/Method" of every RPC in protos/, read from the files themselves: a service that
// is added later is among them. Fails the test when they cannot be read.
std::vector<std::string> MethodsOfTheContracts();

}  // namespace palimpsest
