#include "text/charsmap.h"

#include <string.h>

#include "base/json.h"
#include "bundle/checker.h"

namespace od {
namespace {

constexpr size_t kLongest = 64;  // bytes of what one replacement stands for

u32 offset_of(u32 unit) { return unit >> 10 << ((unit & 0x200) >> 6); }
bool is_inside(char byte) { return (byte & 0xc0) == 0x80; }

}  // namespace

u32 Charsmap::unit(u32 node) const {
  const u8* at = units_.data + size_t(node) * 4;
  return u32(at[0]) | u32(at[1]) << 8 | u32(at[2]) << 16 | u32(at[3]) << 24;
}

bool Charsmap::open(Bytes data, Text where, Error& error) {
  units_ = {};
  texts_ = {};
  if (data.empty()) return true;
  if (data.count >= 4) units_ = {data.data, 1};
  const u32 size = data.count >= 4 ? unit(0) : 0;
  if (!size || size % 4 || size > data.count - 4) {
    return fail(error, Code::bundle, where, kDamaged,
                "its trie does not fit (got %u bytes of %zu, expected a multiple of 4, and less).", size, data.count);
  }
  units_ = data.slice(4, 4 + size_t(size));
  texts_ = {reinterpret_cast<const char*>(data.data) + 4 + size, data.count - 4 - size};
  u32 letter;
  for (Text rest = texts_; rest.size;) {
    const size_t one = decode_letter(rest, letter);
    if (!one) return fail(error, Code::bundle, where, kDamaged, "its replacements are no UTF-8 text.");
    rest = rest.slice(one, rest.size);
  }
  return !texts_.size || !texts_.data[texts_.size - 1] ||
         fail(error, Code::bundle, where, kDamaged, "its last replacement has no end.");
}

bool Charsmap::replace(Text text, List<char>& out) const {
  out.clear();
  while (text.size) {
    u32 letter;
    Text copied;
    size_t size = units_.count ? longest(text, copied) : 0;
    if (!size) {
      size = max<size_t>(decode_letter(text, letter), 1);
      copied = text.slice(0, size);
    }
    for (size_t i = 0; i < copied.size; ++i) {
      if (!out.push(copied.data[i])) return false;
    }
    text = text.slice(size, text.size);
  }
  return true;
}

// Bytes of the longest entry that a text begins with and that ends with a letter; 0: there is none.
size_t Charsmap::longest(Text text, Text& replacement) const {
  const auto count = static_cast<u32>(units_.count / 4);
  size_t found = 0;
  u32 node = offset_of(unit(0));
  for (size_t i = 0; i < min(text.size, kLongest); ++i) {
    const auto byte = static_cast<u8>(text.data[i]);
    node ^= byte;
    if (node >= count) break;
    const u32 here = unit(node);
    if ((here & 0x800000ff) != byte) break;
    node ^= offset_of(here);
    const bool whole = i + 1 == text.size || !is_inside(text.data[i + 1]);
    if (here & 0x100 && whole && node < count && replacement_at(unit(node) & 0x7fffffff, replacement)) found = i + 1;
  }
  return found;
}

// Not one that would begin within a letter, or beyond the last.
bool Charsmap::replacement_at(u32 start, Text& out) const {
  if (start >= texts_.size || is_inside(texts_.data[start])) return false;
  const char* begin = texts_.data + start;
  const auto* end = static_cast<const char*>(memchr(begin, 0, texts_.size - start));
  out = {begin, static_cast<size_t>(end - begin)};
  return true;
}

}  // namespace od
