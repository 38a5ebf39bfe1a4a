// A picture for CLIP's image encoder (docs/pipeline.md, "CLIP's picture").
#pragma once

#include "base/base.h"
#include "picture/prepare.h"

namespace od {

constexpr u32 kClipSide = 224;

// float32 [1, 3, 224, 224] in `out`. Code::usage for a picture that is too large.
bool clip_picture(Pixels picture, List<float>& out, Error& error);

}  // namespace od
