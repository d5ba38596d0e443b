#include "tools/doctor/finding_json.h"

#include <nlohmann/json.hpp>

namespace palimpsest::tools {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Verdict> VerdictOf(const std::string& name) {
  for (const Verdict verdict : {Verdict::kPass, Verdict::kWarn, Verdict::kFail}) {
    if (name == Name(verdict)) return verdict;
  }
  return absl::DataLossError("\"" + name + "\" is no verdict");
}

}  // namespace

const char* Name(Verdict verdict) {
  if (verdict == Verdict::kPass) return "pass";
  return verdict == Verdict::kWarn ? "warn" : "fail";
}

std::string ToJson(const std::vector<Finding>& findings) {
  Json json = Json::array();
  for (const Finding& f : findings) {
    json.push_back(
        {{"name", f.name}, {"verdict", Name(f.verdict)}, {"saw", f.saw}, {"todo", f.todo}});
    if (!f.node.empty()) json.back()["node"] = f.node;
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::vector<Finding>> FindingsFromJson(const std::string& text) {
  std::vector<Finding> findings;
  try {
    for (const Json& one : Json::parse(text)) {
      ASSIGN_OR_RETURN(const Verdict verdict, VerdictOf(one.at("verdict").get<std::string>()));
      findings.push_back({one.at("name").get<std::string>(), verdict,
                          one.at("saw").get<std::string>(), one.at("todo").get<std::string>(),
                          one.value("node", "")});
    }
  } catch (const Json::exception& error) {
    return absl::DataLossError(error.what());
  }
  return findings;
}

}  // namespace palimpsest::tools
