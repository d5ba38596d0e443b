#pragma once

#include <string>

#include "common/context/policy.h"
#include "common/model/config.h"

// What the targets' engines serve.
namespace palimpsest::fuzz {

// Tokens are bytes, then ChatML's two marks; the second one stops.
model::ModelConfig TinyConfig();
context::Shape TinyShape();

// Weights of version 1 or 2 with a tokenizer and a chat template, made at the first call.
std::string TinyFolder(int version);

// Of KV and recorded queries: one long sequence fits, two do not.
inline constexpr int64_t kTinyPool = 72 << 10;

// One of all kinds of policies that fit the model, by any number.
context::ContextPolicy TinyPolicy(int kind);
inline constexpr int kTinyPolicies = 12;

}  // namespace palimpsest::fuzz
