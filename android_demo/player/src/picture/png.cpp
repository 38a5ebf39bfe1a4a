#include "picture/png.h"

#include "base/json.h"
#include "picture/zlib.h"

namespace od {
namespace {

constexpr u8 kSignature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr size_t kPart = 1 << 20;  // bytes of an IDAT chunk
constexpr u32 kColours = 3, kFilters = 5;

class Writer {
 public:
  explicit Writer(List<u8>& out) : out_(out) {}

  void add(Bytes data) {
    for (const u8 byte : data) add(byte);
  }
  void add(u8 byte) { ok = ok && out_.push(byte); }
  void add32(u32 value) {
    for (int shift = 24; shift >= 0; shift -= 8) add(static_cast<u8>(value >> shift & 255));
  }
  void begin(const char* kind) {
    start_ = out_.size();
    add32(0);
    add(Text(kind).bytes());
  }
  void end() {
    if (!ok) return;
    const u32 size = static_cast<u32>(out_.size() - start_ - 8);
    for (u32 i = 0; i < 4; ++i) out_[start_ + i] = static_cast<u8>(size >> (24 - 8 * i) & 255);
    add32(crc32({out_.begin() + start_ + 4, size + size_t(4)}));
  }

  bool ok = true;

 private:
  List<u8>& out_;
  size_t start_ = 0;
};

u8 distance(i32 a, i32 b) { return static_cast<u8>(a < b ? b - a : a - b); }

// Of `left`, `up` and `corner` the nearest to left + up - corner.
u8 paeth(u8 left, u8 up, u8 corner) {
  const i32 to_left = distance(up, corner), to_up = distance(left, corner);
  i32 to_corner = i32(left) + up - 2 * i32(corner);
  if (to_corner < 0) to_corner = -to_corner;
  if (to_left <= to_up && to_left <= to_corner) return left;
  return to_up <= to_corner ? up : corner;
}

// A row as each filter makes it, and the cheapest of them. `rows`: kFilters of 1 + count bytes.
Bytes filter(Bytes row, const u8* above, Span<u8> rows) {
  const size_t count = row.count;
  u64 costs[kFilters] = {};
  for (size_t i = 0; i < count; ++i) {
    const u8 left = i < kColours ? u8(0) : row[i - kColours], up = above ? above[i] : u8(0);
    const u8 corner = i < kColours || !above ? u8(0) : above[i - kColours];
    const u8 guesses[kFilters] = {0, left, up, static_cast<u8>((u32(left) + up) / 2), paeth(left, up, corner)};
    for (u32 number = 0; number < kFilters; ++number) {
      const u8 rest = static_cast<u8>(row[i] - guesses[number]);
      rows[number * (count + 1) + 1 + i] = rest;
      costs[number] += rest < 128 ? rest : 256u - rest;
    }
  }
  u32 best = 0;
  for (u32 number = 1; number < kFilters; ++number) {
    if (costs[number] < costs[best]) best = number;
  }
  rows[best * (count + 1)] = static_cast<u8>(best);
  return {rows.data + best * (count + 1), count + 1};
}

bool is_latin(Text text) {
  u32 letter = 0;
  for (size_t at = 0, size; at < text.size; at += size) {
    size = decode_letter({text.data + at, text.size - at}, letter);
    if (!size || letter > 255) return false;
  }
  return true;
}

void add_text(Writer& writer, const PngText& text) {
  const bool latin = is_latin(text.value);
  writer.begin(latin ? "tEXt" : "iTXt");
  writer.add(text.keyword.bytes());
  for (int zeros = latin ? 1 : 5; zeros; --zeros) writer.add(u8(0));
  if (latin) {
    u32 letter = 0;
    for (size_t at = 0; at < text.value.size;) {
      at += decode_letter({text.value.data + at, text.value.size - at}, letter);
      writer.add(static_cast<u8>(letter));
    }
  } else {
    writer.add(text.value.bytes());
  }
  writer.end();
}

}  // namespace

bool encode_png(Span<const u8> pixels, u32 width, u32 height, Span<const PngText> texts, List<u8>& out, Error& error) {
  const size_t row_bytes = size_t(width) * kColours;
  if (!width || !height || pixels.count != row_bytes * height) {
    return fail(error, Code::internal, "a picture", "report this", "has %zu bytes (expected %ux%u pixels).",
                pixels.count, width, height);
  }
  List<u8> rows, stream;
  bool ok = rows.resize(kFilters * (row_bytes + 1));
  ZlibWriter zlib(stream);
  for (u32 y = 0; ok && y < height; ++y) {
    const Bytes row = pixels.slice(y * row_bytes, (y + size_t(1)) * row_bytes);
    zlib.add(filter(row, y ? row.data - row_bytes : nullptr, rows.span()));
  }
  ok = ok && zlib.finish();
  out.clear();
  Writer writer(out);
  writer.add({kSignature, sizeof kSignature});
  writer.begin("IHDR");
  writer.add32(width);
  writer.add32(height);
  constexpr u8 fields[] = {8, 2, 0, 0, 0};  // bits, colour type, methods, no interlace
  writer.add({fields, sizeof fields});
  writer.end();
  for (const PngText& text : texts) add_text(writer, text);
  for (size_t at = 0; ok && at < stream.size(); at += kPart) {
    writer.begin("IDAT");
    writer.add(Bytes(static_cast<const List<u8>&>(stream).span()).slice(at, min(at + kPart, stream.size())));
    writer.end();
  }
  writer.begin("IEND");
  writer.end();
  return (ok && writer.ok) || Pool::no_memory(error, pixels.count);
}

}  // namespace od
