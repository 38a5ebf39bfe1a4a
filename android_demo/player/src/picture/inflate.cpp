#include "picture/zlib.h"

namespace od {
namespace {

constexpr u32 kEnd = 256, kMostBits = 15, kQuick = 10;
constexpr const char* kEndsEarly = "its data ends early";

// Codes of up to 15 bits: those of at most kQuick by a look-up, longer ones bit by bit.
class Codes {
 public:
  // Whether the lengths are those of a complete code, or, with `few`, of none or of one code of one bit.
  bool set(const u8* widths, u32 count, bool few) {
    u16 offsets[kMostBits + 1];
    for (u16& one : counts_) one = 0;
    for (u16& one : quick_) one = 0;
    for (u32 i = 0; i < count; ++i) ++counts_[widths[i]];
    const u32 coded = count - counts_[0];
    counts_[0] = 0;
    i32 left = 1;
    for (u32 bits = 1; bits <= kMostBits; ++bits) {
      left = 2 * left - counts_[bits];
      if (left < 0) return false;
    }
    if (left && !(few && (coded == 0 || (coded == 1 && counts_[1] == 1)))) return false;
    offsets[1] = 0;
    for (u32 bits = 1; bits < kMostBits; ++bits) offsets[bits + 1] = static_cast<u16>(offsets[bits] + counts_[bits]);
    for (u32 i = 0; i < count; ++i) {
      if (widths[i]) symbols_[offsets[widths[i]]++] = static_cast<u16>(i);
    }
    u32 code = 0, at = 0;
    for (u32 bits = 1; bits <= kQuick; ++bits) {
      code <<= 1;
      for (u32 i = 0; i < counts_[bits]; ++i, ++code, ++at) {
        u32 reversed = 0;
        for (u32 bit = 0; bit < bits; ++bit) reversed |= (code >> bit & 1) << (bits - 1 - bit);
        for (; reversed < 1u << kQuick; reversed += 1u << bits) {
          quick_[reversed] = static_cast<u16>(symbols_[at] << 4 | bits);
        }
      }
    }
    return true;
  }

  // The next symbol of `bits`, of which `known` are there; its width in `width`. False where no code is that.
  bool next(u64 bits, u32 known, u32& symbol, u32& width) const {
    if (const u16 quick = quick_[bits & ((1u << kQuick) - 1)]) {
      symbol = quick >> 4;
      width = quick & 15;
      return width <= known;
    }
    u32 code = 0, first = 0, index = 0;
    for (width = 1; width <= kMostBits && width <= known; ++width) {
      code |= bits & 1;
      bits >>= 1;
      const u32 count = counts_[width];
      if (code < first + count) {
        symbol = symbols_[index + (code - first)];
        return true;
      }
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    return false;
  }

 private:
  u16 counts_[kMostBits + 1], symbols_[288], quick_[1 << kQuick];  // symbol << 4 | width; 0: a longer code
};

class Reader {
 public:
  Reader(Bytes data, Span<u8> out) : data_(data), out_(out) {}

  const char* all() {
    bool last = false;
    while (!last) {
      last = take(1);
      const u32 type = take(2);
      if (short_) return kEndsEarly;
      if (const char* why = type == 0   ? stored()
                            : type == 1 ? fixed()
                            : type == 2 ? dynamic()
                                        : "a block has no type") {
        return why;
      }
    }
    return done_ == out_.count ? nullptr : "it holds fewer pixels than it says";
  }

  // Bytes that no block has, of the whole stream.
  Bytes rest() const { return {data_.data + at_ - known_ / 8, data_.count - at_ + known_ / 8}; }

 private:
  void fill() {
    while (known_ <= 56 && at_ < data_.count) {
      bits_ |= static_cast<u64>(data_[at_++]) << known_;
      known_ += 8;
    }
  }

  void drop(u32 count) {
    bits_ >>= count;
    known_ -= count;
  }

  // At most 16 bits; 0 past the end, which `short_` remembers.
  u32 take(u32 count) {
    fill();
    if (count > known_) {
      short_ = true;
      return 0;
    }
    const u32 value = static_cast<u32>(bits_ & ((u64(1) << count) - 1));
    drop(count);
    return value;
  }

  const char* stored() {
    drop(known_ % 8);
    const u32 size = take(16), check = take(16);
    if (short_) return kEndsEarly;
    if (size != (~check & 0xffff)) return "the size of a block is damaged";
    if (size > out_.count - done_) return "it holds more pixels than it says";
    for (u32 i = 0; i < size; ++i) out_[done_++] = static_cast<u8>(take(8));
    return short_ ? kEndsEarly : nullptr;
  }

  const char* fixed() {
    u8 widths[288];
    for (u32 i = 0; i < 288; ++i) widths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    symbols_.set(widths, 288, false);
    for (u32 i = 0; i < 30; ++i) widths[i] = 5;
    widths[30] = widths[31] = 5;
    distances_.set(widths, 32, false);
    return coded();
  }

  const char* dynamic() {
    constexpr u8 order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const u32 symbols = take(5) + 257, distances = take(5) + 1, listed = take(4) + 4;
    u8 widths[286 + 30] = {};
    if (symbols > 286 || distances > 30) return "a block has too many codes";
    for (u32 i = 0; i < listed; ++i) widths[order[i]] = static_cast<u8>(take(3));
    if (short_) return kEndsEarly;
    if (!symbols_.set(widths, 19, false)) return "the codes of a block are damaged";
    zeroed(widths, sizeof widths);
    for (u32 i = 0; i < symbols + distances;) {
      u32 symbol;
      if (!next(symbols_, symbol)) return "the codes of a block are damaged";
      u32 repeat = 1;
      u8 width = static_cast<u8>(symbol);
      if (symbol >= 16) {
        if (symbol == 16 && i == 0) return "the codes of a block are damaged";
        width = symbol == 16 ? widths[i - 1] : u8(0);
        repeat = symbol == 16 ? 3 + take(2) : symbol == 17 ? 3 + take(3) : 11 + take(7);
      }
      if (short_) return kEndsEarly;
      if (repeat > symbols + distances - i) return "the codes of a block are damaged";
      for (; repeat; --repeat) widths[i++] = width;
    }
    if (!widths[kEnd] || !symbols_.set(widths, symbols, false) || !distances_.set(widths + symbols, distances, true)) {
      return "the codes of a block are damaged";
    }
    return coded();
  }

  bool next(const Codes& codes, u32& symbol) {
    u32 width;
    fill();
    if (!codes.next(bits_, known_, symbol, width)) return false;
    drop(width);
    return true;
  }

  const char* coded() {
    for (;;) {
      u32 symbol;
      if (!next(symbols_, symbol)) return "its data is damaged or ends early";
      if (symbol == kEnd) return nullptr;
      if (symbol < 256) {
        if (done_ == out_.count) return "it holds more pixels than it says";
        out_[done_++] = static_cast<u8>(symbol);
        continue;
      }
      if (symbol > 285) return "its data is damaged or ends early";
      u32 length = 258;
      if (symbol < 285) {
        const u32 bits = symbol < 265 ? 0 : (symbol - 261) / 4;
        length = symbol < 265 ? symbol - 254 : ((4 + (symbol - 265) % 4) << bits) + 3;
        length += take(bits);
      }
      if (!next(distances_, symbol) || symbol > 29) return "its data is damaged or ends early";
      const u32 bits = symbol < 4 ? 0 : symbol / 2 - 1;
      u32 distance = symbol < 4 ? symbol + 1 : ((2 + symbol % 2) << bits) + 1;
      distance += take(bits);
      if (short_) return kEndsEarly;
      if (distance > done_) return "it repeats what is before its beginning";
      if (length > out_.count - done_) return "it holds more pixels than it says";
      for (; length; --length, ++done_) out_[done_] = out_[done_ - distance];
    }
  }

  Bytes data_;
  Span<u8> out_;
  size_t at_ = 0, done_ = 0;
  u64 bits_ = 0;
  u32 known_ = 0;  // bits that are read and not taken
  bool short_ = false;
  Codes symbols_, distances_;
};

struct Table {
  u32 values[256];
  constexpr Table() : values() {
    for (u32 i = 0; i < 256; ++i) {
      u32 value = i;
      for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xedb88320u ^ value >> 1 : value >> 1;
      values[i] = value;
    }
  }
};
constexpr Table kTable;

}  // namespace

u32 crc32(Bytes data, u32 before) {
  u32 value = ~before;
  for (const u8 byte : data) value = kTable.values[(value ^ byte) & 255] ^ value >> 8;
  return ~value;
}

u32 adler32(Bytes data, u32 before) {
  u32 a = before & 0xffff, b = before >> 16;
  for (size_t at = 0; at < data.count;) {
    const size_t end = min(data.count, at + 5552);  // so many sums fit into 32 bits
    for (; at < end; ++at) b += a += data[at];
    a %= 65521;
    b %= 65521;
  }
  return b << 16 | a;
}

const char* inflate(Bytes stream, Span<u8> out) {
  if (stream.count < 2) return kEndsEarly;
  if ((stream[0] & 15) != 8 || stream[0] >> 4 > 7 || (stream[0] << 8 | stream[1]) % 31 || stream[1] & 32) {
    return "its data is no zlib stream";
  }
  Reader reader(stream.slice(2, stream.count), out);
  if (const char* why = reader.all()) return why;
  const Bytes rest = reader.rest();
  if (rest.count < 4) return kEndsEarly;
  const u32 sum = u32(rest[0]) << 24 | u32(rest[1]) << 16 | u32(rest[2]) << 8 | rest[3];
  return sum == adler32({out.data, out.count}) ? nullptr : "its pixels are not those that were written";
}

}  // namespace od
