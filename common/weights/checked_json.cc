#include "common/weights/checked_json.h"

#include <set>
#include <vector>

#include "absl/strings/str_format.h"

namespace palimpsest::weights {
namespace {

constexpr int kMaxDepth = 16;

}  // namespace

absl::StatusOr<Json> ParseObject(std::string_view text) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open, outermost first
  std::string complaint;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) complaint = absl::StrFormat("nested deeper than %d", kMaxDepth);
    if (!complaint.empty()) return false;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) complaint = "key '" + key + "' occurs twice";
    }
    return complaint.empty();
  };
  Json json = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (!complaint.empty()) return absl::DataLossError(complaint);
  if (!json.is_object()) return absl::DataLossError("not a JSON object");
  return json;
}

bool IsUtf8(std::string_view text) {
  const std::string dumped =
      Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(dumped).get_ref<const std::string&>() == text;
}

}  // namespace palimpsest::weights
