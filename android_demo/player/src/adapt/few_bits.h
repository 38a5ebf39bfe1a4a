// Weights in few bits (docs/adapters.md): numbers with scales, from floats and back.
#pragma once

#include "base/base.h"
#include "bundle/made.h"

namespace od {

// A matrix [rows, columns], row after row.
struct Matrix {
  const float* data;
  size_t rows, columns;

  float at(size_t row, size_t column) const { return data[row * columns + column]; }
};

// Numbers of a matrix of finite values, in bytes: int8 in two's complement, or 0..15 of which kZero means 0.
bool numbers_of(MadeOp op, Matrix values, List<u8>& out, Error& error);
// Their scales: [1, columns], or [groups, columns] of kGroup rows, not rounded to what they are stored in.
bool scales_of(MadeOp op, Matrix values, List<float>& out, Error& error);
// What numbers and scales stand for; `op` of the numbers, `scales` of as many rows as there are groups.
bool from_few_bits(MadeOp op, Bytes numbers, Span<const float> scales, size_t columns, List<float>& out, Error& error);

}  // namespace od
