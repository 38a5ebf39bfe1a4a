#include "adapt/few_bits.h"

#include <math.h>

#include "base/half.h"

namespace od {
namespace {

constexpr float kLargest = 127;  // of 8 bits: a number and its negative are rounded alike

// The scale in half of which all values of a group are whole multiples from -8 to 7; `usual` where there is none.
float exact_scale(const float (&group)[kGroup], float usual) {
  constexpr i32 kNumbers[] = {-8, 1, 2, 3, 4, 5, 6, 7, -7, -6, -5, -4, -3, -2, -1};
  const float largest = usual * -static_cast<float>(kZero);
  for (const i32 number : kNumbers) {
    const float scale = from_half(to_half(largest / static_cast<float>(number)));
    bool held = true;
    for (size_t i = 0; held && i < kGroup; ++i) {
      const float whole = rintf(group[i] / scale);
      held = whole * scale == group[i] && whole >= -static_cast<float>(kZero) && whole < static_cast<float>(kZero);
    }
    if (held) return scale;
  }
  return usual;
}

// Of one column's rows from `first` on, zeros past the last.
float int4_scale(Matrix values, size_t first, size_t column, float (&group)[kGroup]) {
  float largest = 0, size = 0, least = INFINITY;  // the value of the largest size, the first of several
  for (size_t i = 0; i < kGroup; ++i) {
    group[i] = first + i < values.rows ? values.at(first + i, column) : 0.0f;
    const float own = fabsf(group[i]);
    if (i == 0 || own > size) {
      size = own;
      largest = group[i];
    }
    if (own != 0 && own < least) least = own;
  }
  const float scale = largest / -static_cast<float>(kZero);
  // Whole multiples of a scale, eight of it at most, leave a gap around zero: other groups seldom do.
  return scale != 0 && least >= fabsf(scale) * 0.999f ? exact_scale(group, scale) : scale;
}

u8 bounded(float number, float low, float high) {
  return static_cast<u8>(static_cast<i32>(number < low ? low : number > high ? high : number));
}

}  // namespace

bool scales_of(MadeOp op, Matrix values, List<float>& out, Error& error) {
  const bool eight = op == MadeOp::int8_scales;
  const size_t columns = values.columns, groups = eight ? 1 : (values.rows - 1) / kGroup + 1;
  out.clear();
  if (!out.resize(groups * columns)) return Pool::no_memory(error, groups * columns * sizeof(float));
  if (eight) {
    for (size_t i = 0; i < values.rows * columns; ++i) {
      float& largest = out[i % columns];
      largest = max(largest, fabsf(values.data[i]));
    }
    for (float& scale : out) scale = scale == 0 ? 1.0f : scale / kLargest;
    return true;
  }
  float group[kGroup];
  for (size_t i = 0; i < groups * columns; ++i) {
    out[i] = int4_scale(values, i / columns * kGroup, i % columns, group);
  }
  return true;
}

bool numbers_of(MadeOp op, Matrix values, List<u8>& out, Error& error) {
  const bool eight = op == MadeOp::int8;
  const size_t count = values.rows * values.columns, columns = values.columns;
  List<float> scales;
  if (!scales_of(eight ? MadeOp::int8_scales : MadeOp::int4_scales, values, scales, error)) return false;
  if (!out.resize(count)) return Pool::no_memory(error, count);
  for (size_t i = 0; i < values.rows; ++i) {
    const float* const row = scales.begin() + (eight ? 0 : i / kGroup * columns);
    for (size_t column = 0; column < columns; ++column) {
      const float value = values.at(i, column);
      u8& number = out[i * columns + column];
      if (eight) {
        number = bounded(rintf(value / row[column]), -kLargest, kLargest);
      } else {
        const float scale = from_half(to_half(row[column]));
        number = bounded((scale == 0 ? 0.0f : rintf(value / scale)) + kZero, 0, 15);
      }
    }
  }
  return true;
}

bool from_few_bits(MadeOp op, Bytes numbers, Span<const float> scales, size_t columns, List<float>& out,
                   Error& error) {
  if (!out.resize(numbers.count)) return Pool::no_memory(error, numbers.count * sizeof(float));
  for (size_t i = 0; i < numbers.count; ++i) {
    const size_t group = op == MadeOp::int8 ? 0 : i / columns / kGroup;
    const float scale = scales[group * columns + i % columns];
    out[i] = op == MadeOp::int8 ? static_cast<float>(static_cast<int8_t>(numbers[i])) * scale
                                : static_cast<float>(i32(numbers[i]) - i32(kZero)) * scale;
  }
  return true;
}

}  // namespace od
