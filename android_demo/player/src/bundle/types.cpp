// The small words of manifests and plans: dtypes, shapes, sizes, needs.
#include <stdio.h>

#include "bundle/manifest.h"

namespace od {
namespace {

struct NeedName {
  Need need;
  const char* name;
};
constexpr NeedName kNeeds[] = {
    {kHalf, "half"},
    {kImage2d, "image2d"},
    {kMatrixUnit, "matrix_unit"},
    {kSubgroups, "subgroups"},
    {kWaveConstants, "wave_constants"},
};

}  // namespace

u32 bytes_of(Dtype dtype) {
  static constexpr u32 kBytes[] = {4, 2, 4, 1, 1};
  return kBytes[static_cast<u32>(dtype)];
}

const char* name_of(Dtype dtype) {
  static constexpr const char* kNames[] = {"f32", "f16", "i32", "i8", "u4x2"};
  return kNames[static_cast<u32>(dtype)];
}

u32 need_of(Text word) {
  for (const NeedName& known : kNeeds) {
    if (word == known.name) return known.need;
  }
  return kUnknownNeed;
}

const char* name_of(Need need) {
  for (const NeedName& known : kNeeds) {
    if (known.need == need) return known.name;
  }
  return "what a later version needs";
}

u64 Shape::count() const {
  u64 product = 1;
  for (u32 i = 0; i < rank; ++i) product *= dims[i];
  return product;
}

const char* Shape::shown(char* out, size_t room) const {
  size_t used = static_cast<size_t>(snprintf(out, room, "["));
  for (u32 i = 0; i < rank && used < room; ++i) {
    used += static_cast<size_t>(snprintf(out + used, room - used, "%s%u", i ? ", " : "", dims[i]));
  }
  if (used < room) snprintf(out + used, room - used, "]");
  return out;
}

bool Shape::operator==(const Shape& other) const {
  if (rank != other.rank) return false;
  for (u32 i = 0; i < rank; ++i) {
    if (dims[i] != other.dims[i]) return false;
  }
  return true;
}

u32 Sizes::get(Text name, u32 otherwise) const {
  for (u32 i = 0; i < count; ++i) {
    if (names[i] == name) return values[i];
  }
  return otherwise;
}

bool Sizes::has(Text name) const { return get(name, 0) != 0; }

bool Sizes::set(Text name, u32 value) {
  for (u32 i = 0; i < count; ++i) {
    if (names[i] == name) {
      values[i] = value;
      return true;
    }
  }
  if (count == kMaxRank) return false;
  names[count] = name;
  values[count++] = value;
  return true;
}

bool Sizes::operator==(const Sizes& other) const {
  if (count != other.count) return false;
  for (u32 i = 0; i < count; ++i) {
    if (other.get(names[i]) != values[i]) return false;
  }
  return true;
}

const char* Sizes::shown(char* out, size_t room) const {
  size_t used = 0;
  snprintf(out, room, "no sizes");
  for (u32 i = 0; i < count && used < room; ++i) {
    used +=
        static_cast<size_t>(snprintf(out + used, room - used, "%s%.*s=%u", i ? " " : "", OD_TEXT(names[i]), values[i]));
  }
  return out;
}

}  // namespace od
