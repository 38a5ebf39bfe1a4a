#include "draw/values.h"

#include <string.h>

#include "base/half.h"

namespace od {

Values::~Values() {
  for (Kept& one : kept_) {
    if (one.on_device) session_.drop(one.device);
    one.host.reset();
  }
  for (DeviceValue* one : zeros_) session_.drop(*one);
}

bool Values::zeros(Dtype dtype, const Shape& shape, const DeviceValue*& out, Error& error) {
  for (const DeviceValue* one : zeros_) {
    out = one;
    if (one->dtype == dtype && one->shape == shape) return true;
  }
  const size_t bytes = static_cast<size_t>(shape.count() * bytes_of(dtype));
  List<u8> data;
  auto* made = pool_.one<DeviceValue>();
  if (!made || !data.resize(bytes)) return Pool::no_memory(error, bytes);
  if (!session_.put({data.begin(), bytes}, dtype, shape, *made, error)) return false;
  out = made;
  if (zeros_.push(made)) return true;
  session_.drop(*made);
  return Pool::no_memory(error, sizeof made);
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

void Values::drop_call(const Role& role) {
  for (const Keep& keep : role.keeps) {
    Kept& one = at(keep.value, kNone);
    if (one.on_device) session_.drop(one.device);
    one.made = one.on_device = false;
  }
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

}  // namespace od
