#pragma once

#include <map>
#include <string>

namespace palimpsest::inference {

// Where the replicas of a run are now: "inference-3" -> host:port, from a fresh listing of
// <run>/addresses. A file that is on its way, or cannot be understood, is left out.
std::map<std::string, std::string> FollowedAddresses(const std::string& run_folder);

}  // namespace palimpsest::inference
