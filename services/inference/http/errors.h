#pragma once

#include <string>

#include "common/base/status.h"

// Refusals and failures in OpenAI's shape.
namespace palimpsest::inference {

// A refusal of the server names the fields of its message ("sampling.stop_strings[0] ..."); here it
// names those of the JSON ("stop[0] ..").
absl::Status InJsonNames(const absl::Status& status, bool chat);

// 400, 404, 429, ..: what clients try again gets 429 or 5xx, what will never work 4xx.
int HttpStatusOf(const absl::Status& status);

// {"error": {"message", "type", "param", "code"}}: param is the field that a refusal begins with.
std::string ErrorBody(const absl::Status& status);

}  // namespace palimpsest::inference
