// zlib streams (RFC 1950, 1951): written as docs/png.md says, so that they are the same bytes everywhere; read as they
// come, within bounds.
#pragma once

#include "base/base.h"

namespace od {

// Of `data` after what gave `before`.
u32 crc32(Bytes data, u32 before = 0);
u32 adler32(Bytes data, u32 before = 1);

// Adds a stream to the end of a list, block by block.
class ZlibWriter {
 public:
  explicit ZlibWriter(List<u8>& out);
  void add(Bytes data);
  // After the last byte, of which there was one at least. Whether there was memory for it.
  bool finish();

 private:
  void block(bool last);
  void head(Span<const u8> widths, bool last);
  void write(u32 value, u32 width);
  List<u8>& out_;
  List<u8> bytes_;  // of the block that is being filled
  u64 bits_ = 0;    // that fill no byte yet
  u32 width_ = 0, adler_ = 1;
  bool ok_ = true;
};

// Fill `out` from a stream that holds exactly so many bytes. Null, or what is wrong with it.
const char* inflate(Bytes stream, Span<u8> out);

}  // namespace od
