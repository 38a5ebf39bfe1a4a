// Pictures that a user gives: PNG files and the streams in them. What is read is written, and read again.
#include <string.h>

#include "picture/png.h"
#include "picture/zlib.h"
#include "support/fuzz.h"

namespace od::fuzz {
namespace {

constexpr u8 kSignature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

void put32(u8* at, u32 value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<u8>(value >> (24 - 8 * i));
}

void put(List<u8>& out, Bytes data) {
  for (const u8 byte : data) out.push(byte);
}

void put_chunk(List<u8>& out, const char* kind, Bytes data) {
  u8 number[4];
  put32(number, static_cast<u32>(data.count));
  put(out, {number, 4});
  const size_t begin = out.size();
  put(out, Text(kind).bytes());
  put(out, data);
  put32(number, crc32({out.begin() + begin, out.size() - begin}));
  put(out, {number, 4});
}

// Every chunk's sum is right, so that what is behind it is reached.
void repair(u8* data, size_t size) {
  for (size_t at = sizeof kSignature; at + 12 <= size;) {
    const u32 length = u32(data[at]) << 24 | u32(data[at + 1]) << 16 | u32(data[at + 2]) << 8 | data[at + 3];
    if (length > size - at - 12) return;
    put32(data + at + 8 + length, crc32({data + at + 4, length + size_t(4)}));
    at += 12 + size_t(length);
  }
}

// Another file of any kind, whose stream is whole: rows of any bytes, about as many as its head asks for.
size_t made(u8* data, size_t most, u32 seed) {
  static constexpr u8 kDepths[] = {1, 2, 4, 8, 16}, kColours[] = {0, 2, 3, 4, 6};
  Chance chance(seed);
  u8 head[13] = {};
  const u32 width = 1 + chance.below(20), height = 1 + chance.below(20), depth = kDepths[chance.below(5)];
  const u8 colour = kColours[chance.below(5)];
  put32(head, width);
  put32(head + 4, height);
  head[8] = static_cast<u8>(depth);
  head[9] = colour;
  head[12] = static_cast<u8>(chance.below(2));
  const u32 channels = colour == 2 ? 3 : colour == 4 ? 2 : colour == 6 ? 4 : 1;
  u64 bytes = 0;
  for (u32 pass = 0; pass < 7; ++pass) {
    static constexpr u32 kX[] = {0, 4, 0, 2, 0, 1, 0}, kY[] = {0, 0, 4, 0, 2, 0, 1};
    static constexpr u32 kAcross[] = {8, 8, 4, 4, 2, 2, 1}, kDown[] = {8, 8, 8, 4, 4, 2, 2};
    const u32 across = head[12] ? (width + kAcross[pass] - 1 - min(width, kX[pass])) / kAcross[pass] : width;
    const u32 down = head[12] ? (height + kDown[pass] - 1 - min(height, kY[pass])) / kDown[pass] : height;
    if (across && (head[12] || !pass)) bytes += u64(down) * ((u64(across) * channels * depth + 7) / 8 + 1);
  }
  List<u8> rows, stream, out, palette;
  bytes += chance.below(16) ? 0 : chance.below(3);
  for (u64 i = 0; i < bytes; ++i) rows.push(static_cast<u8>(chance.below(chance.below(4) ? 5 : 256)));
  ZlibWriter writer(stream);
  writer.add({rows.begin(), rows.size()});
  if (!writer.finish()) return 0;
  put(out, {kSignature, sizeof kSignature});
  put_chunk(out, "IHDR", {head, 13});
  if (colour == 3 || !chance.below(8)) {
    for (u32 i = 3 * (1 + chance.below(chance.below(2) ? 256 : 4)); i; --i) {
      palette.push(static_cast<u8>(chance.below(256)));
    }
    put_chunk(out, "PLTE", {palette.begin(), palette.size()});
  }
  if (!chance.below(3)) put_chunk(out, "tRNS", {rows.begin(), min<size_t>(rows.size(), 1 + chance.below(6))});
  const size_t half = chance.below(stream.size());
  put_chunk(out, "IDAT", {stream.begin(), half});
  put_chunk(out, "IDAT", {stream.begin() + half, stream.size() - half});
  put_chunk(out, "IEND", {});
  if (out.size() > most) return 0;
  memcpy(data, out.begin(), out.size());
  return out.size();
}

}  // namespace
}  // namespace od::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Error error;
  List<u8> pixels, written, again;
  u32 width = 0, height = 0, width_again = 0, height_again = 0;
  if (!decode_png({data, size}, "x.png", 1 << 16, pixels, width, height, error)) {
    fuzz::check_error(error);
    return 0;
  }
  OD_HOLDS(width && height && pixels.size() == size_t(3) * width * height && u64(width) * height <= 1 << 16);
  if (pixels.size() > 3000) return 0;
  OD_HOLDS(encode_png({pixels.begin(), pixels.size()}, width, height, {}, written, error));
  OD_HOLDS(decode_png({written.begin(), written.size()}, "x.png", 1 << 16, again, width_again, height_again, error));
  OD_HOLDS(width == width_again && height == height_again && pixels.size() == again.size());
  OD_HOLDS(!memcmp(pixels.begin(), again.begin(), pixels.size()));
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  using namespace od;
  if (seed % 16 == 0) {
    if (const size_t found = fuzz::made(data, most, seed)) return found;
  }
  size = LLVMFuzzerMutate(data, size, most);
  if (seed % 16 != 1) fuzz::repair(data, size);
  return size;
}
