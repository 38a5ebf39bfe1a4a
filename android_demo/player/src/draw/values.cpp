#include "draw/values.h"

#include <math.h>
#include <string.h>

namespace od {

Values::~Values() {
  for (Kept& one : kept_) {
    if (one.on_device) session_.drop(one.device);
    one.host.reset();
  }
}

bool Values::open(size_t parts, Error& error) {
  row_ = parts + 1;
  return pool_.array(kept_, pipeline_.values.count * row_, error);
}

size_t Values::place(i32 value, i32 part) const {
  const bool per_text = pipeline_.values[static_cast<size_t>(value)].rate == Rate::text;
  return static_cast<size_t>(value) * row_ + static_cast<size_t>(per_text ? part + 1 : 0);
}

Kept& Values::at(i32 value, i32 part) { return kept_[place(value, part)]; }

bool Values::was_made(i32 value) const {
  for (const Kept& one : kept_.slice(static_cast<size_t>(value) * row_, (static_cast<size_t>(value) + 1) * row_)) {
    if (one.made) return true;
  }
  return false;
}

void Values::keep(i32 value, i32 part, const DeviceValue& made) {
  Kept& one = at(value, part);
  if (one.on_device) session_.drop(one.device);
  one.made = one.on_device = true;
  one.device = made;
  one.shape = made.shape;
}

bool Values::host(const Kept& kept, List<float>& out, Error& error) {
  if (kept.on_device) return host(kept.device, out, error);
  const size_t count = static_cast<size_t>(kept.shape.count());
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  memcpy(out.begin(), kept.host.begin(), count * sizeof(float));
  return true;
}

bool Values::host(const DeviceValue& value, List<float>& out, Error& error) {
  const size_t count = static_cast<size_t>(value.shape.count());
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  auto* bytes = reinterpret_cast<u8*>(out.begin());
  if (value.dtype != Dtype::f16) return session_.read(value, {bytes, count * sizeof(float)}, error);
  // Halves go into the upper part, and are widened from there.
  auto* halves = reinterpret_cast<u16*>(bytes + count * sizeof(u16));
  if (!session_.read(value, {reinterpret_cast<u8*>(halves), count * sizeof(u16)}, error)) return false;
  for (size_t i = 0; i < count; ++i) {
    u16 half;
    memcpy(&half, halves + i, sizeof half);
    out[i] = from_half(half);
  }
  return true;
}

float from_half(u16 half) {
  const u32 sign = u32(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
  float value;
  if (exponent == 0) {
    value = ldexpf(static_cast<float>(fraction), -24);
    return sign ? -value : value;
  }
  const u32 bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}

u16 to_half(float value) {
  u32 bits;
  memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<u16>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;   // NaN
  if (bits >= 0x477ff000) return sign | 0x7c00;  // beyond the largest half
  if (bits < 0x38800000) {                       // a multiple of 2^-24
    return static_cast<u16>(sign | static_cast<u16>(rintf(ldexpf(fabsf(value), 24))));
  }
  const u32 rounded = bits - 0x38000000 + 0xfff + (bits >> 13 & 1);
  return static_cast<u16>(sign | rounded >> 13);
}

}  // namespace od
