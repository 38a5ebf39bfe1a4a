// Canny's edges of a picture (docs/pipeline.md, "Keys").
#pragma once

#include "base/base.h"
#include "picture/prepare.h"

namespace od {

// Gradients above `high` are edges, and those above `low` that are joined to them.
struct Thresholds {
  i32 low = 100, high = 200;
};

// Of two numbers of 0 or more: the smaller is the lower, whichever comes first, and gradients are whole numbers.
Thresholds thresholds_of(double first, double second);

// uint8 [height, width] in `out`: 1 where there is an edge, else 0.
bool find_edges(Pixels picture, Thresholds thresholds, List<u8>& out, Error& error);

// A picture of a picture's edges at a size: uint8 [height, width, 3] in `out`, 255 where there is an edge, else 0.
bool trace(Pixels picture, Thresholds thresholds, u32 width, u32 height, List<u8>& out, Error& error);

}  // namespace od
