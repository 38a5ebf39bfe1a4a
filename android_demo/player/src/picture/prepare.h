// A user's picture -> the tensor that a pipeline asks for (docs/pipeline.md, "Keys").
#pragma once

#include "base/base.h"
#include "bundle/pipeline.h"

namespace od {

struct Pixels {
  const u8* data = nullptr;  // [height, width, 3]
  u32 width = 0, height = 0;
};

// Lanczos of 8-bit pixels, as Pillow does it.
bool resize(Pixels from, u32 width, u32 height, List<u8>& out, Error& error);

// uint8 [height, width] in `out`: 1 where the grey of the resized picture is at least 128, else 0.
bool fit_mask(Pixels mask, u32 width, u32 height, List<u8>& out, Error& error);

// The tensor of a preparation for a picture of `width` x `height` pixels. `other`: the second picture of `masked`. Its
// shape is [1, 3, height, width], [1, 1, height / scale, width / scale] of a mask, or [1, 3, 224, 224] for CLIP.
bool prepare(Prepare how, Pixels picture, Pixels other, u32 width, u32 height, u32 scale, List<float>& out,
             Error& error);

// float32 [1, 3, h, w] of -1..1 -> uint8 [h, w, 3], rounded halves to even.
void to_pixels(Span<const float> sample, u32 width, u32 height, Span<u8> out);

}  // namespace od
