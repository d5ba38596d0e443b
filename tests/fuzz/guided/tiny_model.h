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

// Of KV and recorded queries: one long sequence fits, two do not. A page of 16 slots of 2 layers
// and 2 heads is two rows of 8 floats and a bias for each.
inline constexpr int64_t kTinyPage = 16 * 2 * 2 * (2 * 8 + 1) * 4;
inline constexpr int64_t kTinyPool = 17 * kTinyPage;

// One of all kinds of policies that fit the model, by any number.
context::ContextPolicy TinyPolicy(int kind);
inline constexpr int kTinyPolicies = 15;

}  // namespace palimpsest::fuzz
