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

bool Values::open(Error& error) {
  return pool_.array(kept_, pipeline_.values.count * (pipeline_.texts.count + 1), error);
}

size_t Values::place(i32 value, i32 text) const {
  const bool per_text = pipeline_.values[static_cast<size_t>(value)].rate == Rate::text;
  return static_cast<size_t>(value) * (pipeline_.texts.count + 1) + static_cast<size_t>(per_text ? text + 1 : 0);
}

Kept& Values::at(i32 value, i32 text) { return kept_[place(value, text)]; }

bool Values::was_made(i32 value) const {
  const size_t row = pipeline_.texts.count + 1;
  for (const Kept& one : kept_.slice(static_cast<size_t>(value) * row, (static_cast<size_t>(value) + 1) * row)) {
    if (one.made) return true;
  }
  return false;
}

void Values::keep(i32 value, i32 text, const DeviceValue& made) {
  Kept& one = at(value, text);
  if (one.on_device) session_.drop(one.device);
  one.made = one.on_device = true;
  one.device = made;
  one.shape = made.shape;
}

bool Values::host(const Kept& kept, List<float>& out, Error& error) {
  const size_t count = static_cast<size_t>(kept.shape.count());
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  if (!kept.on_device) {
    memcpy(out.begin(), kept.host.begin(), count * sizeof(float));
    return true;
  }
  auto* bytes = reinterpret_cast<u8*>(out.begin());
  if (kept.device.dtype != Dtype::f16) return session_.read(kept.device, {bytes, count * sizeof(float)}, error);
  // Halves go into the upper part, and are widened from there.
  auto* halves = reinterpret_cast<u16*>(bytes + count * sizeof(u16));
  if (!session_.read(kept.device, {reinterpret_cast<u8*>(halves), count * sizeof(u16)}, error)) return false;
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

}  // namespace od
