// Values of what weights are made by (docs/adapters.md).
#pragma once

#include "base/base.h"
#include "bundle/made.h"

namespace od {

// Gives float32 of a leaf's shape.
struct Leaves {
  void* user;
  bool (*values)(void* user, const Made& leaf, List<float>& out, Error& error);
};

// The values of an expression of floats alone: float32 of its shape.
bool values_of(const Made& made, const Leaves& leaves, List<float>& out, Error& error);

// What is done to numbers in few bits or their scales on their way to what is stored, from `step` on; and its undoing.
// Elements are of one size each, pairs of numbers in one byte.
bool redo(const Made& made, const Made* step, const List<u8>& numbers, List<u8>& out, Error& error);
bool redo(const Made& made, const Made* step, const List<float>& scales, List<float>& out, Error& error);
bool undo(const Made& made, const Made* step, Bytes stored, List<u8>& out, Error& error);
bool undo(const Made& made, const Made* step, Span<const float> stored, List<float>& out, Error& error);

}  // namespace od
