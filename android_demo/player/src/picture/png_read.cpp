#include <string.h>

#include "picture/png.h"
#include "picture/zlib.h"

namespace od {
namespace {

constexpr u32 kMostSide = 1 << 16;
constexpr u8 kWhite = 255;

struct Pass {
  u32 x, y, across, down;  // the first pixel, and how far the next are
};
constexpr Pass kWhole[] = {{0, 0, 1, 1}};
constexpr Pass kAdam7[] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                           {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};

enum Colour : u8 { kGrey = 0, kRgb = 2, kIndex = 3, kGreyAlpha = 4, kRgba = 6 };

// What a file says before its pixels.
struct Head {
  u32 width = 0, height = 0;
  u8 depth = 0, colour = 0;
  bool interlaced = false, has_key = false;
  u32 key[3] = {};     // the transparent grey or colour
  u32 colours = 0;     // of the palette
  u8 palette[256][4];  // red, green, blue, opacity
  Span<const Pass> passes() const { return interlaced ? Span<const Pass>{kAdam7, 7} : Span<const Pass>{kWhole, 1}; }
  u32 channels() const { return colour == kRgb ? 3 : colour == kGreyAlpha ? 2 : colour == kRgba ? 4 : 1; }
  // Of a pass: its pixels across and down, and the bytes of a row.
  u32 across(const Pass& pass) const { return (width - min(width, pass.x) + pass.across - 1) / pass.across; }
  u32 down(const Pass& pass) const { return (height - min(height, pass.y) + pass.down - 1) / pass.down; }
  size_t row_bytes(const Pass& pass) const { return (size_t(across(pass)) * channels() * depth + 7) / 8; }
};

u32 big32(const u8* data) { return u32(data[0]) << 24 | u32(data[1]) << 16 | u32(data[2]) << 8 | data[3]; }
u32 big16(const u8* data) { return u32(data[0]) << 8 | data[1]; }

// The orientation in EXIF (TIFF 6.0), 1 to 8; 1 where it says none or is damaged.
u32 orientation_of(Bytes exif) {
  const bool little = exif.count >= 2 && exif[0] == 'I' && exif[1] == 'I';
  const auto number = [&](u64 at, u32 bytes) {
    u32 value = 0;
    for (u32 i = 0; i < bytes; ++i) value = value << 8 | exif[at + (little ? bytes - 1 - i : i)];
    return value;
  };
  if (exif.count < 8 || (!little && (exif[0] != 'M' || exif[1] != 'M')) || number(2, 2) != 42) return 1;
  u64 at = number(4, 4);
  if (at + 2 > exif.count) return 1;
  u32 entries = number(at, 2);
  for (at += 2; entries && at + 12 <= exif.count; --entries, at += 12) {
    const u32 type = number(at + 2, 2);
    if (number(at, 2) != 0x0112 || number(at + 4, 4) != 1 || (type != 3 && type != 4)) continue;
    const u32 value = number(at + 8, type == 3 ? 2 : 4);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

// Turn pixels as an orientation says.
bool turn(u32 orientation, List<u8>& pixels, u32& width, u32& height) {
  constexpr u8 turns[] = {0, 0, 2, 2, 3, 3, 1, 1};  // quarters, against the clock; then
  constexpr bool mirrored[] = {false, true, false, true, true, false, true, false};
  if (orientation == 1) return true;
  const u32 quarters = turns[orientation - 1];
  const u32 wide = quarters % 2 ? height : width, high = quarters % 2 ? width : height;
  List<u8> out;
  if (!out.resize(pixels.size())) return false;
  for (u32 y = 0; y < high; ++y) {
    for (u32 place = 0; place < wide; ++place) {
      const u32 x = mirrored[orientation - 1] ? wide - 1 - place : place;
      u32 from_y = y, from_x = x;
      if (quarters == 1) {
        from_y = x;
        from_x = width - 1 - y;
      } else if (quarters == 2) {
        from_y = height - 1 - y;
        from_x = width - 1 - x;
      } else if (quarters == 3) {
        from_y = height - 1 - x;
        from_x = y;
      }
      memcpy(out.begin() + 3 * (size_t(y) * wide + place), pixels.begin() + 3 * (size_t(from_y) * width + from_x), 3);
    }
  }
  memcpy(pixels.begin(), out.begin(), out.size());
  width = wide;
  height = high;
  return true;
}

class Decoder {
 public:
  Decoder(Bytes file, u64 most) : file_(file), most_(most) {}

  // Null, or why the file is not read.
  const char* chunks() {
    constexpr u8 signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (file_.count < 8 || memcmp(file_.data, signature, 8)) return file_.count ? "it is no PNG" : "it is empty";
    bool ended = false;
    size_t at = 8;
    for (size_t number = 0; !ended; ++number) {
      if (file_.count - at < 12) return "it ends early";
      const u32 size = big32(file_.data + at);
      if (size > file_.count - at - 12) return "it ends early";
      const Bytes data = file_.slice(at + 8, at + 8 + size);
      const Text kind(reinterpret_cast<const char*>(file_.data) + at + 4, 4);
      if (crc32(file_.slice(at + 4, at + 8 + size)) != big32(data.end())) return "a part of it is damaged (CRC)";
      at += 12 + size_t(size);
      if ((number == 0) != (kind == "IHDR")) return "its header is damaged";
      if (kind != "IDAT" && !stream_.empty()) after_pixels_ = true;
      ended = kind == "IEND";
      if (const char* why = chunk(kind, data)) return why;
    }
    return stream_.empty() ? "it has no pixels" : nullptr;
  }

  const char* pixels(List<u8>& out) {
    u64 bytes = 0, longest = 0;
    for (const Pass& pass : head.passes()) {
      if (!head.across(pass)) continue;
      bytes += head.down(pass) * u64(head.row_bytes(pass) + 1);
      longest = max<u64>(longest, head.row_bytes(pass));
    }
    List<u8> raw, zeros;
    if (!raw.resize(bytes) || !zeros.resize(longest) || !out.resize(size_t(head.width) * head.height * 3)) {
      return "there is no memory for it";
    }
    if (const char* why = inflate(static_cast<const List<u8>&>(stream_).span(), raw.span())) return why;
    u8* row = raw.begin();
    for (const Pass& pass : head.passes()) {
      const u8* above = zeros.begin();
      const size_t size = head.row_bytes(pass);
      for (u32 y = 0; head.across(pass) && y < head.down(pass); ++y, row += size + 1) {
        if (!unfilter(row[0], row + 1, above, size)) return "a row has no filter";
        above = row + 1;
        const size_t line = size_t(pass.y + y * pass.down) * head.width;
        for (u32 x = 0; x < head.across(pass); ++x) {
          if (!put(row + 1, x, out.begin() + 3 * (line + pass.x + x * pass.across))) return "a pixel has no colour";
        }
      }
    }
    return nullptr;
  }

  Head head;
  u32 orientation = 1;
  bool too_large = false;

 private:
  const char* chunk(Text kind, Bytes data) {
    if (kind == "IHDR") return header(data);
    if (kind == "PLTE") {
      if (!stream_.empty() || head.colours || !data.count || data.count % 3 || data.count > 768) {
        return "its palette is damaged";
      }
      head.colours = static_cast<u32>(data.count / 3);
      for (u32 i = 0; i < head.colours; ++i) {
        memcpy(head.palette[i], data.data + size_t(3) * i, 3);
        head.palette[i][3] = kWhite;
      }
      return nullptr;
    }
    if (kind == "tRNS") return transparency(data);
    if (kind == "eXIf") orientation = orientation_of(data);
    if (kind == "IDAT") {
      if (after_pixels_) return "its pixels are in two places";
      if (head.colour == kIndex && !head.colours) return "it has no palette";
      const size_t before = stream_.size();
      if (data.count && !stream_.resize(before + data.count)) return "there is no memory for it";
      if (data.count) memcpy(stream_.begin() + before, data.data, data.count);
      return nullptr;
    }
    // A capital says that a file is not to be read without it.
    return kind == "IEND" || kind.data[0] & 32 ? nullptr : "it has a part that is not known";
  }

  const char* header(Bytes data) {
    if (data.count != 13) return "its header is damaged";
    head.width = big32(data.data);
    head.height = big32(data.data + 4);
    head.depth = data[8];
    head.colour = data[9];
    head.interlaced = data[12] == 1;
    const u8 d = head.depth;
    const bool one = d == 1 || d == 2 || d == 4 || d == 8, two = d == 8 || d == 16;
    const bool known = head.colour == kGrey                                                       ? one || two
                       : head.colour == kIndex                                                    ? one
                       : head.colour == kRgb || head.colour == kGreyAlpha || head.colour == kRgba ? two
                                                                                                  : false;
    if (!known || data[10] || data[11] || data[12] > 1 || !head.width || !head.height) return "its header is damaged";
    too_large = head.width > kMostSide || head.height > kMostSide || u64(head.width) * head.height > most_;
    return too_large ? "it is too large" : nullptr;
  }

  // Pixels are compared as Pillow has them, which keeps the high bytes of colours of 16 bits.
  const char* transparency(Bytes data) {
    if (head.colour == kIndex) {
      if (!head.colours || data.count > head.colours) return "its transparency is damaged";
      for (size_t i = 0; i < data.count; ++i) head.palette[i][3] = data[i];
      return nullptr;
    }
    const u32 count = head.colour == kGrey ? 1 : head.colour == kRgb ? 3 : 0;
    if (!count || data.count != 2 * count) return "its transparency is damaged";
    for (u32 i = 0; i < count; ++i) {
      const u32 value = big16(data.data + 2 * i);
      head.key[i] = head.depth < 16 ? value & ((1u << head.depth) - 1) : count == 1 ? value : value >> 8;
    }
    head.has_key = true;
    return nullptr;
  }

  bool unfilter(u8 number, u8* row, const u8* above, size_t size) const {
    const size_t step = max<size_t>(1, size_t(head.channels()) * head.depth / 8);
    for (size_t i = 0; i < size; ++i) {
      const u32 left = i < step ? 0 : row[i - step], up = above[i], corner = i < step ? 0 : above[i - step];
      u32 guess = 0;
      switch (number) {
        case 0:
          return true;
        case 1:
          guess = left;
          break;
        case 2:
          guess = up;
          break;
        case 3:
          guess = (left + up) / 2;
          break;
        case 4: {
          const i32 near = i32(left) + i32(up) - i32(corner);
          const auto from = [near](u32 value) { return near < i32(value) ? i32(value) - near : near - i32(value); };
          guess = from(left) <= from(up) && from(left) <= from(corner) ? left : from(up) <= from(corner) ? up : corner;
          break;
        }
        default:
          return false;
      }
      row[i] = static_cast<u8>(row[i] + guess);
    }
    return number <= 4;
  }

  // Pixel `x` of a row, over white. False where the palette has no such colour.
  bool put(const u8* row, u32 x, u8* out) const {
    u8 rgba[4] = {0, 0, 0, kWhite};
    const u32 channels = head.channels(), depth = head.depth;
    if (depth < 8) {
      const u32 bit = x * depth;
      const u32 value = row[bit / 8] >> (8 - depth - bit % 8) & ((1u << depth) - 1);
      if (head.colour == kIndex) return put_colour(value, out);
      grey(rgba, static_cast<u8>(value * (255 / ((1u << depth) - 1))), value);
    } else if (head.colour == kIndex) {
      return put_colour(row[x], out);
    } else if (head.colour == kGrey && depth == 16) {
      const u32 value = big16(row + 2 * size_t(x));
      grey(rgba, static_cast<u8>((value * 255 + 32767) / 65535), value);
    } else {
      u8 values[4] = {};
      const u32 bytes = depth / 8;  // the high byte counts
      for (u32 i = 0; i < channels; ++i) values[i] = row[(size_t(x) * channels + i) * bytes];
      if (channels < 3) {
        grey(rgba, values[0], values[0]);
        if (channels == 2) rgba[3] = values[1];
      } else {
        memcpy(rgba, values, channels);
        if (head.has_key && values[0] == head.key[0] && values[1] == head.key[1] && values[2] == head.key[2]) {
          rgba[3] = 0;
        }
      }
    }
    over_white(rgba, out);
    return true;
  }

  void grey(u8* rgba, u8 shown, u32 value) const {
    rgba[0] = rgba[1] = rgba[2] = shown;
    if (head.has_key && value == head.key[0]) rgba[3] = 0;
  }

  bool put_colour(u32 number, u8* out) const {
    if (number >= head.colours) return false;
    over_white(head.palette[number], out);
    return true;
  }

  static void over_white(const u8* rgba, u8* out) {
    for (u32 i = 0; i < 3; ++i) {
      out[i] = static_cast<u8>((u32(rgba[i]) * rgba[3] + u32(kWhite) * (255u - rgba[3]) + 127) / 255);
    }
  }

  Bytes file_;
  u64 most_;
  List<u8> stream_;
  bool after_pixels_ = false;
};

}  // namespace

bool decode_png(Bytes file, Text where, u64 most, List<u8>& pixels, u32& width, u32& height, Error& error) {
  Decoder decoder(file, most);
  const char* why = decoder.chunks();
  if (decoder.too_large) {
    return fail(error, Code::usage, where, "shrink it",
                "too large (got %ux%u, expected at most %llu pixels, %u per side).", decoder.head.width,
                decoder.head.height, static_cast<unsigned long long>(most), kMostSide);
  }
  if (!why) why = decoder.pixels(pixels);
  if (why) {
    return fail(error, Code::usage, where, "save it as PNG and try again", "not a readable image (%s; expected PNG).",
                why);
  }
  width = decoder.head.width;
  height = decoder.head.height;
  return turn(decoder.orientation, pixels, width, height) || Pool::no_memory(error, pixels.size());
}

}  // namespace od
