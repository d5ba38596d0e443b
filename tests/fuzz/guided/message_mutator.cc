#include "tests/fuzz/guided/message_mutator.h"

#include <cmath>
#include <concepts>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "common/base/random.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace palimpsest::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kMostItems = 200;  // of a repeated field

bool Changed(bool old, RandomStream&) { return !old; }

template <std::floating_point Number>
Number Changed(Number old, RandomStream& random) {
  using Limits = std::numeric_limits<Number>;
  const Number hard[] = {0,
                         1,
                         -1,
                         Limits::infinity(),
                         Limits::quiet_NaN(),
                         Limits::max(),
                         Limits::min(),
                         Limits::denorm_min()};
  switch (random.Below(4)) {
    case 0:
      return hard[random.Below(std::ssize(hard))];
    case 1:
      return static_cast<Number>(random.Uniform());
    case 2:
      return static_cast<Number>(random.Below(4));
    default:
      return old * static_cast<Number>(std::ldexp(1.0, static_cast<int>(random.Below(9)) - 4));
  }
}

template <std::integral Number>
Number Changed(Number old, RandomStream& random) {
  using Limits = std::numeric_limits<Number>;
  using Bits = std::make_unsigned_t<Number>;
  const Number hard[] = {0, 1, static_cast<Number>(-1), Limits::max(), Limits::min()};
  switch (random.Below(4)) {
    case 0:
      return hard[random.Below(std::ssize(hard))];
    case 1:
      return static_cast<Number>(random.Below(300));  // about the vocabulary
    case 2:
      return static_cast<Number>(static_cast<Bits>(old) + 1);
    default:
      return static_cast<Number>(static_cast<Bits>(old) - 1);
  }
}

std::string Changed(std::string text, RandomStream& random) {
  const auto at = static_cast<size_t>(random.Below(std::ssize(text) + 1));
  const auto byte = static_cast<char>(random.Below(256));
  switch (random.Below(3)) {
    case 0:
      text.insert(at, 1, byte);
      break;
    case 1:
      text.erase(at, 1 + random.Below(4));
      break;
    default:
      if (at < text.size()) text[at] = byte;
  }
  return text;
}

void ChangeFields(Message& message, RandomStream& random);

// `index`: of an item, the number of items for a new one, -1 for a field that is not repeated.
void ChangeValue(Message& m, const FieldDescriptor* f, int index, RandomStream& random) {
  const Reflection& r = *m.GetReflection();
  const bool add = index >= 0 && index == r.FieldSize(m, f);
#define PALIMPSEST_VALUE(TYPE, NAME, ZERO)                                        \
  case FieldDescriptor::CPPTYPE_##TYPE:                                           \
    if (index < 0) return r.Set##NAME(&m, f, Changed(r.Get##NAME(m, f), random)); \
    if (add) return r.Add##NAME(&m, f, Changed(ZERO, random));                    \
    return r.SetRepeated##NAME(&m, f, index, Changed(r.GetRepeated##NAME(m, f, index), random))
  switch (f->cpp_type()) {
    PALIMPSEST_VALUE(INT32, Int32, int32_t{0});
    PALIMPSEST_VALUE(INT64, Int64, int64_t{0});
    PALIMPSEST_VALUE(UINT32, UInt32, uint32_t{0});
    PALIMPSEST_VALUE(UINT64, UInt64, uint64_t{0});
    PALIMPSEST_VALUE(DOUBLE, Double, 0.0);
    PALIMPSEST_VALUE(FLOAT, Float, 0.0f);
    PALIMPSEST_VALUE(BOOL, Bool, false);
    PALIMPSEST_VALUE(ENUM, EnumValue, 0);
    PALIMPSEST_VALUE(STRING, String, std::string());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      ChangeFields(index < 0 ? *r.MutableMessage(&m, f)
                   : add     ? *r.AddMessage(&m, f)
                             : *r.MutableRepeatedMessage(&m, f, index),
                   random);
  }
#undef PALIMPSEST_VALUE
}

void ChangeItems(Message& m, const FieldDescriptor* f, RandomStream& random) {
  const Reflection& r = *m.GetReflection();
  const int size = r.FieldSize(m, f);
  const int index = size == 0 ? 0 : static_cast<int>(random.Below(size));
  switch (random.Below(4)) {
    case 0:
      if (size > 0) r.RemoveLast(&m, f);
      break;
    case 1:
      if (size > 1) r.SwapElements(&m, f, index, size - 1);
      break;
    case 2:
      if (size < kMostItems) ChangeValue(m, f, size, random);
      break;
    default:
      ChangeValue(m, f, index, random);
  }
}

// Mostly of fields that are there.
void ChangeFields(Message& m, RandomStream& random) {
  const auto* type = m.GetDescriptor();
  if (type->field_count() == 0) return;
  std::vector<const FieldDescriptor*> fields;
  m.GetReflection()->ListFields(m, &fields);
  const FieldDescriptor* const f =
      fields.empty() || random.Below(4) == 0
          ? type->field(static_cast<int>(random.Below(type->field_count())))
          : fields[random.Below(std::ssize(fields))];
  if (f->is_repeated()) return ChangeItems(m, f, random);
  if (random.Below(8) == 0) return m.GetReflection()->ClearField(&m, f);
  ChangeValue(m, f, -1, random);
}

}  // namespace

size_t MutateMessage(Message& message, uint8_t* data, size_t size, size_t most, uint64_t seed) {
  RandomStream random(seed);
  if (size == 0 || random.Below(8) == 0 ||
      !message.ParseFromArray(data + 1, static_cast<int>(size) - 1)) {
    return LLVMFuzzerMutate(data, size, most);
  }
  if (random.Below(8) == 0) data[0] = static_cast<uint8_t>(random.Below(256));
  ChangeFields(message, random);  // libFuzzer comes again with the outcome, a few times
  const std::string bytes = message.SerializeAsString();
  if (bytes.size() + 1 > most) return LLVMFuzzerMutate(data, size, most);
  std::memcpy(data + 1, bytes.data(), bytes.size());
  return bytes.size() + 1;
}

}  // namespace palimpsest::fuzz
