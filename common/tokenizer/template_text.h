#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace palimpsest {

// A chat template's text as a list of statements in one spelling, so that two texts that say the
// same in other words of white space, quotes, comments, `x["y"]` for `x.y` or `a ~ {{..}}{{..}}`
// compare equal. Nothing is evaluated, with one exception: what a template does with tools only is
// left out, because no tools are ever given.
//
//   {%- if add_generation_prompt %}        if add_generation_prompt
//     {{- '<|im_start|>' + 'assistant\n' }}  ->  emit "<|im_start|>assistant\n"
//   {%- endif %}                           endif
//
// White space is cut as transformers has Jinja cut it (trim_blocks, lstrip_blocks). Literals are
// quoted by QuoteLiteral. INVALID_ARGUMENT: a tag that does not end, an escape that is not read.
absl::StatusOr<std::vector<std::string>> TemplateStatements(std::string_view text);

// "..." with \n, \t, \r, \" and \\ for what they stand for; and back (`quoted` without the quotes).
std::string QuoteLiteral(std::string_view text);
std::string UnquoteLiteral(std::string_view quoted);

}  // namespace palimpsest
