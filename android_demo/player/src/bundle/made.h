// How stored weights come from a checkpoint's, and what adapters change of these (docs/adapters.md). All of it was
// checked.
#pragma once

#include "bundle/checker.h"

namespace od {

enum class MadeOp : u8 {
  leaf,
  transpose,
  reshape,
  scale,
  concat,
  winograd,
  pad,
  panels,
  pairs,
  int8,
  int4,
  int8_scales,
  int4_scales,
};

// A step of how a weight is made, of others: `leaf` is a weight of the checkpoint, as float32.
struct Made {
  MadeOp op;
  Shape shape;  // of what it makes
  Text weight;  // leaf: component and name, "unet/conv_in.weight"
  Span<Made> of;
  u32 perm[kMaxRank] = {};                                  // transpose
  double by = 1;                                            // scale
  u32 axis = 0, columns = 0, width = 0, halves = 1, fill = 0;  // concat, pad, panels

  // Whether it makes whole numbers of few bits, or the scales of such.
  bool numbers() const { return op == MadeOp::int8 || op == MadeOp::int4; }
  bool scales() const { return op == MadeOp::int8_scales || op == MadeOp::int4_scales; }
};

// The step that makes numbers in few bits or their scales, of which only movement is left to do; null where values are
// stored as they are.
const Made* number_step(const Made& made);

// Rows that share a scale of 4 bits, and the number that means 0.
constexpr u32 kGroup = 32, kZero = 8;

// Checks how the weights of a manifest are made beside each other, sorts them by key and reads the adapters.
// Code::bundle.
bool parse_adapters(const Checker& check, const Json& whole, Pool& pool, Manifest& manifest);

// Reads the value of a weight's `made`; its shape must be the weight's. Code::bundle with the field that is wrong.
bool parse_made(const Checker& check, const Json& value, const Place& at, const WeightEntry& weight, Pool& pool,
                const Made*& out);

}  // namespace od
