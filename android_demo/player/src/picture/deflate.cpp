#include "base/sort.h"
#include "picture/zlib.h"

namespace od {
namespace {

constexpr size_t kBlock = 1 << 16;  // bytes of a block, which has codes of its own
constexpr size_t kShortest = 10, kLongest = 258;
constexpr u32 kEnd = 256, kSymbols = 286, kLengths = 19;
constexpr u8 kOrder[kLengths] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

struct Length {
  u32 symbol, extra_bits, extra;
};

// Of a length of 3 to 258.
Length length_code(size_t length) {
  if (length == kLongest) return {285, 0, 0};
  u32 symbol = 257, base = 3;
  for (;; ++symbol) {
    const u32 bits = symbol < 265 ? 0 : (symbol - 261) / 4;
    if (length < base + (1u << bits)) return {symbol, bits, static_cast<u32>(length) - base};
    base += 1u << bits;
  }
}

// What a block says: `literal(byte)` and `more(length)` in order.
template <class Literal, class More>
void say(Bytes data, Literal literal, More more) {
  for (size_t at = 0; at < data.count;) {
    size_t end = at + 1;
    while (end < data.count && data[end] == data[at]) ++end;
    literal(data[at]);
    size_t left = end - at - 1;
    for (; left >= kLongest; left -= kLongest) more(kLongest);
    if (left >= kShortest) {
      more(left);
    } else {
      for (; left; --left) literal(data[at]);
    }
    at = end;
  }
}

// Lengths of at most `most` bits of the Huffman codes of two symbols or more that have a count; others get 0. Counts
// are of one block, so that no path of the tree is longer than Fibonacci's numbers take to get there: 24.
void code_widths(Span<const u32> given, u32 most, Span<u8> widths) {
  u32 counts[kSymbols], weights[2 * kSymbols];
  u16 order[kSymbols], parents[2 * kSymbols];
  u8 depths[2 * kSymbols];
  u32 leaves = 0;
  for (u32 symbol = 0; symbol < given.count; ++symbol) {
    counts[symbol] = given[symbol];
    widths[symbol] = 0;
    if (counts[symbol]) order[leaves++] = static_cast<u16>(symbol);
  }
  for (;;) {
    sort(Span<u16>{order, leaves},
         [&](u16 a, u16 b) { return counts[a] < counts[b] || (counts[a] == counts[b] && a < b); });
    for (u32 i = 0; i < leaves; ++i) weights[i] = counts[order[i]];
    const u32 nodes = 2 * leaves - 1;
    for (u32 made = leaves, leaf = 0, node = leaves; made < nodes; ++made) {
      weights[made] = 0;
      for (int two = 0; two < 2; ++two) {
        const bool from_leaves = leaf < leaves && (node >= made || weights[leaf] <= weights[node]);
        const u32 child = from_leaves ? leaf++ : node++;
        weights[made] += weights[child];
        parents[child] = static_cast<u16>(made);
      }
    }
    u32 deepest = 0;
    depths[nodes - 1] = 0;
    for (u32 i = nodes - 1; i-- > 0;) {
      depths[i] = static_cast<u8>(depths[parents[i]] + 1);
      deepest = max<u32>(deepest, depths[i]);
    }
    if (deepest <= most) break;
    for (u32 symbol = 0; symbol < given.count; ++symbol) counts[symbol] = (counts[symbol] + 1) >> 1;
  }
  for (u32 i = 0; i < leaves; ++i) widths[order[i]] = depths[i];
}

// The code of each symbol, its first bit the lowest, as it is written.
void reversed_codes(Span<const u8> widths, u16* codes) {
  u32 code = 0;
  for (u32 width = 1; width <= 15; ++width) {
    code <<= 1;
    for (u32 symbol = 0; symbol < widths.count; ++symbol) {
      if (widths[symbol] != width) continue;
      u32 reversed = 0;
      for (u32 bit = 0; bit < width; ++bit) reversed |= (code >> bit & 1) << (width - 1 - bit);
      codes[symbol] = static_cast<u16>(reversed);
      ++code;
    }
  }
}

// Lengths of codes in the symbols 0 to 18: `symbol(number, extra bits, their value)`.
template <class Symbol>
void say_widths(Span<const u8> widths, Symbol symbol) {
  for (size_t at = 0; at < widths.count;) {
    const u8 width = widths[at];
    size_t end = at + 1;
    while (end < widths.count && widths[end] == width) ++end;
    u32 left = static_cast<u32>(end - at);
    if (width) {
      symbol(width, 0, 0);
      --left;
    }
    while (left >= 3) {
      const u32 taken = min<u32>(left, width ? 6 : 138);
      if (width) {
        symbol(16, 2, taken - 3);
      } else if (taken < 11) {
        symbol(17, 3, taken - 3);
      } else {
        symbol(18, 7, taken - 11);
      }
      left -= taken;
    }
    for (; left; --left) symbol(width, 0, 0);
    at = end;
  }
}

}  // namespace

ZlibWriter::ZlibWriter(List<u8>& out) : out_(out) {
  write(0x78, 8);  // a window of 32 KiB
  write(0x9c, 8);
}

void ZlibWriter::add(Bytes data) {
  adler_ = adler32(data, adler_);
  for (const u8 byte : data) {
    if (bytes_.size() == kBlock) block(false);
    ok_ = ok_ && bytes_.push(byte);
  }
}

bool ZlibWriter::finish() {
  block(true);
  if (width_) write(0, 8 - width_);
  for (int shift = 24; shift >= 0; shift -= 8) write(adler_ >> shift & 255, 8);
  return ok_;
}

void ZlibWriter::block(bool last) {
  if (!ok_) return;
  const Bytes data = static_cast<const List<u8>&>(bytes_).span();
  u32 counts[kSymbols] = {};
  counts[kEnd] = 1;
  say(
      data, [&](u8 byte) { ++counts[byte]; }, [&](size_t length) { ++counts[length_code(length).symbol]; });
  u8 widths[kSymbols + 1];
  u16 codes[kSymbols];
  code_widths({counts, kSymbols}, 15, {widths, kSymbols});
  reversed_codes({widths, kSymbols}, codes);
  u32 used = kSymbols;
  while (used > kEnd + 1 && !widths[used - 1]) --used;
  const u8 next = widths[used];
  widths[used] = 1;  // the distance's
  head({widths, used + 1}, last);
  widths[used] = next;
  say(
      data, [&](u8 byte) { write(codes[byte], widths[byte]); },
      [&](size_t length) {
        const Length code = length_code(length);
        write(codes[code.symbol], widths[code.symbol]);
        write(code.extra, code.extra_bits + 1);  // and a zero bit: the only distance, 1
      });
  write(codes[kEnd], widths[kEnd]);
  bytes_.clear();
}

void ZlibWriter::head(Span<const u8> widths, bool last) {
  u32 counts[kLengths] = {};
  say_widths(widths, [&](u32 symbol, u32, u32) { ++counts[symbol]; });
  u8 own[kLengths];
  u16 codes[kLengths];
  code_widths({counts, kLengths}, 7, {own, kLengths});
  reversed_codes({own, kLengths}, codes);
  u32 listed = kLengths;
  while (listed > 4 && !own[kOrder[listed - 1]]) --listed;
  write(last, 1);
  write(2, 2);
  write(static_cast<u32>(widths.count) - 1 - 257, 5);
  write(0, 5);
  write(listed - 4, 4);
  for (u32 i = 0; i < listed; ++i) write(own[kOrder[i]], 3);
  say_widths(widths, [&](u32 symbol, u32 bits, u32 value) {
    write(codes[symbol], own[symbol]);
    write(value, bits);
  });
}

void ZlibWriter::write(u32 value, u32 width) {
  bits_ |= static_cast<u64>(value) << width_;
  width_ += width;
  for (; width_ >= 8; width_ -= 8, bits_ >>= 8) ok_ = ok_ && out_.push(static_cast<u8>(bits_ & 255));
}

}  // namespace od
