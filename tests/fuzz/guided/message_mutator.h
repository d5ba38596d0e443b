#pragma once

#include <google/protobuf/message.h>

#include <cstddef>
#include <cstdint>

namespace palimpsest::fuzz {

// For LLVMFuzzerCustomMutator of a target whose input is a byte of its own and then a message of
// this type: mostly changes fields in place of bytes, where each insertion breaks the lengths of
// all that is around it. Returns the new size, at most `most`.
size_t MutateMessage(google::protobuf::Message& message, uint8_t* data, size_t size, size_t most,
                     uint64_t seed);

}  // namespace palimpsest::fuzz
