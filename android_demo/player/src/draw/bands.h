// Decoding in bands (docs/bundle.md, "A decoder in bands"): the decoder's stages over pictures in the host's memory.
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "device/session.h"

namespace od {

// The plans of a decoder in bands of `rows` rows for latents of this size, in order and fitting each other; empty where
// the bundle has none. Code::bundle.
bool find_stages(Bundle& bundle, u32 height, u32 width, u32 rows, List<const Plan*>& out, Error& error);

// Rows of the bands in which the bundle can decode latents of this size, highest first.
bool band_heights(const Bundle& bundle, u32 height, u32 width, List<u32>& out);

// The most bytes of pictures that `decode_in_bands` holds at a time.
u64 held_bytes(Span<const Plan* const> stages);

// Latents float32 [1, c, h, w], as the whole decoder takes them -> float32 [1, 3, H, W] in `out`.
bool decode_in_bands(Session& session, Span<const Plan* const> stages, Span<const float> latents, List<float>& out,
                     Error& error);

}  // namespace od
