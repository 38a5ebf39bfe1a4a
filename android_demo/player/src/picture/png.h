// PNG files, written as docs/png.md says, so that every player's are the same bytes.
#pragma once

#include "base/base.h"

namespace od {

struct PngText {
  Text keyword, value;  // value: UTF-8; written as tEXt where it is Latin-1, else as iTXt
};

// uint8 [height, width, 3] as a whole file. Code::internal where there is no memory.
bool encode_png(Span<const u8> pixels, u32 width, u32 height, Span<const PngText> texts, List<u8>& out, Error& error);

// A PNG of 8 or 16 bits, of any colour type and interlaced or not -> uint8 [height, width, 3]; what is transparent lies
// over white, and it is turned upright as its EXIF says. At most `most` pixels. Code::usage for a file that is damaged
// or none.
bool decode_png(Bytes file, Text where, u64 most, List<u8>& pixels, u32& width, u32& height, Error& error);

}  // namespace od
