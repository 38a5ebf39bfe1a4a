// Canny's edges of a picture (docs/pipeline.md, "Keys").
#pragma once

#include "base/base.h"
#include "picture/prepare.h"

namespace od {

// uint8 [height, width] in `out`: 1 where there is an edge, else 0, by thresholds 100 and 200.
bool find_edges(Pixels picture, List<u8>& out, Error& error);

}  // namespace od
