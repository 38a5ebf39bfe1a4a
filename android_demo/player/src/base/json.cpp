#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/sort.h"

namespace od {
namespace {

constexpr size_t kFew = 8;  // members that are looked through one by one
constexpr const char* kFix = "copy the bundle again, or write it again with `ondevice convert`";

bool continues(u8 byte) { return (byte & 0xc0) == 0x80; }

class Parser {
 public:
  Parser(Bytes data, Text where, Pool& pool, Error& error, JsonLimits limits)
      : start_(data.data),
        at_(data.data),
        end_(data.data + data.count),
        where_(where),
        pool_(pool),
        error_(error),
        limits_(limits) {}

  bool all(Json& out) {
    if (static_cast<size_t>(end_ - at_) > limits_.bytes) {
      return fail(error_, Code::bundle, where_, kFix, "is too large (got %zu bytes, expected at most %zu).",
                  static_cast<size_t>(end_ - at_), limits_.bytes);
    }
    size_t marks = 0;
    for (const u8* c = at_; c < end_; ++c) marks += *c == ',' || *c == '[' || *c == '{';
    if (marks > limits_.values) {
      return fail(error_, Code::bundle, where_, kFix, "holds too many values (expected at most %zu).", limits_.values);
    }
    for (Text rest(reinterpret_cast<const char*>(at_), static_cast<size_t>(end_ - at_)); rest.size;) {
      u32 letter;
      const size_t size = decode_letter(rest, letter);
      if (!size) return broken("is no UTF-8");
      rest = {rest.data + size, rest.size - size};
    }
    if (!value(out, 0)) return false;
    space();
    return at_ == end_ || broken("has more after the value");
  }

 private:
  bool broken(const char* why) {
    return fail(error_, Code::bundle, where_, kFix, "is not valid JSON (%s at byte %zu).", why,
                static_cast<size_t>(at_ - start_));
  }

  void space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }

  bool is(char c) { return at_ < end_ && *at_ == c; }

  bool word(const char* text) {
    const size_t size = strlen(text);
    if (static_cast<size_t>(end_ - at_) < size || memcmp(at_, text, size) != 0) return broken("has no value");
    at_ += size;
    return true;
  }

  bool value(Json& out, size_t depth) {
    space();
    if (at_ == end_) return broken("ends");
    switch (*at_) {
      case '{':
      case '[':
        if (depth == limits_.depth) {
          return fail(error_, Code::bundle, where_, kFix, "is nested too deeply (expected at most %zu levels).",
                      limits_.depth);
        }
        return *at_ == '{' ? object(out, depth + 1) : array(out, depth + 1);
      case '"':
        out.kind = Json::Kind::text;
        return text(out.text);
      case 't':
        out.kind = Json::Kind::boolean;
        out.boolean = true;
        return word("true");
      case 'f':
        out.kind = Json::Kind::boolean;
        return word("false");
      case 'n':
        return word("null");
      default:
        return number(out);
    }
  }

  bool number(Json& out) {
    const u8* begin = at_;
    const auto digits = [&] {
      const u8* first = at_;
      while (at_ < end_ && *at_ >= '0' && *at_ <= '9') ++at_;
      return at_ - first;
    };
    if (is('-')) ++at_;
    const u8* first = at_;
    const auto whole = digits();
    if (!whole || (whole > 1 && *first == '0')) return broken("has no value");
    bool real = false;
    if (is('.')) {
      real = true;
      ++at_;
      if (!digits()) return broken("has no digit after a point");
    }
    if (is('e') || is('E')) {
      real = true;
      ++at_;
      if (is('+') || is('-')) ++at_;
      if (!digits()) return broken("has no digit in an exponent");
    }
    const Text written(reinterpret_cast<const char*>(begin), static_cast<size_t>(at_ - begin));
    out.kind = real ? Json::Kind::real : Json::Kind::integer;
    if (!real) {
      u64 size = 0;
      for (const u8* c = first; c < at_; ++c) {
        const u64 digit = *c - u64('0');
        if (size > (u64(INT64_MAX) - digit) / 10) {
          out.too_large = true;
          break;
        }
        size = size * 10 + digit;
      }
      out.integer = *begin == '-' ? -static_cast<i64>(size) : static_cast<i64>(size);
    }
    out.real = real || out.too_large ? read_number(written) : static_cast<double>(out.integer);
    if (out.real > 1.7976931348623157e308 || out.real < -1.7976931348623157e308) {
      if (real) return broken("has a number that is too large");
      out.too_large = true;
    }
    return true;
  }

  // Four digits of \uXXXX.
  bool hexadecimal(u32& out) {
    out = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      if (at_ == end_) return broken("has half an escape");
      const u8 c = *at_;
      const u32 digit = c >= '0' && c <= '9'   ? u32(c - '0')
                        : c >= 'a' && c <= 'f' ? u32(c - 'a' + 10)
                        : c >= 'A' && c <= 'F' ? u32(c - 'A' + 10)
                                               : 16;
      if (digit == 16) return broken("has half an escape");
      out = out << 4 | digit;
    }
    return true;
  }

  bool escape(char*& to) {
    if (at_ == end_) return broken("has half an escape");
    const u8 c = *at_++;
    const char* const known = "\"\\/bfnrt";
    const char* const meant = "\"\\/\b\f\n\r\t";
    if (const char* found = c ? strchr(known, c) : nullptr) {
      *to++ = meant[found - known];
      return true;
    }
    if (c != 'u') return broken("has an escape that is none");
    u32 letter, low;
    if (!hexadecimal(letter)) return false;
    if (letter >= 0xd800 && letter < 0xdc00) {
      if (!is('\\') || end_ - at_ < 6 || at_[1] != 'u') return broken("has half of a surrogate pair");
      at_ += 2;
      if (!hexadecimal(low)) return false;
      if (low < 0xdc00 || low > 0xdfff) return broken("has half of a surrogate pair");
      letter = 0x10000 + ((letter - 0xd800) << 10 | (low - 0xdc00));
    } else if (letter >= 0xdc00 && letter < 0xe000) {
      return broken("has half of a surrogate pair");
    }
    to += encode_letter(letter, to);
    return true;
  }

  bool text(Text& out) {
    const u8* begin = ++at_;
    const u8* close = begin;
    while (close < end_ && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= end_) return broken("has a text without an end");
    // What is written is never shorter than what is meant.
    auto* to = static_cast<char*>(pool_.take(static_cast<size_t>(close - begin) + 1));
    if (!to) return Pool::no_memory(error_, static_cast<size_t>(close - begin));
    out.data = to;
    while (*at_ != '"') {
      if (*at_ < 0x20) return broken("has a control character in a text");
      if (*at_ == '\\') {
        ++at_;
        if (!escape(to)) return false;
      } else {
        *to++ = static_cast<char>(*at_++);
      }
    }
    ++at_;
    out.size = static_cast<size_t>(to - out.data);
    return true;
  }

  bool array(Json& out, size_t depth) {
    out.kind = Json::Kind::list;
    ++at_;
    space();
    if (is(']')) return ++at_, true;
    List<Json> found;
    while (true) {
      Json one;
      if (!value(one, depth)) return false;
      if (!found.push(one)) return Pool::no_memory(error_, sizeof one);
      space();
      if (is(',')) {
        ++at_;
        continue;
      }
      if (!is(']')) return broken("has a list without an end");
      ++at_;
      if (!pool_.array(out.list, found.size(), error_)) return false;
      memcpy(static_cast<void*>(out.list.data), found.begin(), found.size() * sizeof(Json));
      return true;
    }
  }

  bool object(Json& out, size_t depth) {
    out.kind = Json::Kind::object;
    ++at_;
    space();
    if (is('}')) return ++at_, true;
    List<Member> found;
    while (true) {
      Member one;
      space();
      if (!is('"')) return broken("has no key");
      if (!text(one.key)) return false;
      space();
      if (!is(':')) return broken("has a key without a value");
      ++at_;
      if (!value(one.value, depth)) return false;
      if (!found.push(one)) return Pool::no_memory(error_, sizeof one);
      space();
      if (is(',')) {
        ++at_;
        continue;
      }
      if (!is('}')) return broken("has an object without an end");
      ++at_;
      if (!pool_.array(out.members, found.size(), error_)) return false;
      memcpy(static_cast<void*>(out.members.data), found.begin(), found.size() * sizeof(Member));
      return index(out);
    }
  }

  bool index(Json& out) {
    const auto& members = out.members;
    if (members.count <= kFew) {
      for (size_t i = 0; i < members.count; ++i) {
        for (size_t j = 0; j < i; ++j) {
          if (members[i].key == members[j].key) return repeated(members[i].key);
        }
      }
      return true;
    }
    // The first bytes of most keys tell them apart, without a look at the keys themselves.
    struct Place {
      u64 head;
      u32 member;
    };
    List<Place> order;
    if (!order.resize(members.count)) return Pool::no_memory(error_, members.count * sizeof(Place));
    for (u32 i = 0; i < members.count; ++i) {
      order[i].member = i;
      for (size_t k = 0; k < 8; ++k) {
        order[i].head = order[i].head << 8 | (k < members[i].key.size ? static_cast<u8>(members[i].key.data[k]) : 0);
      }
    }
    const auto compared = [&](const Place& a, const Place& b) {
      if (a.head != b.head) return a.head < b.head ? -1 : 1;
      return compare(members[a.member].key, members[b.member].key);
    };
    sort(order.span(), [&](const Place& a, const Place& b) { return compared(a, b) < 0; });
    if (!pool_.array(out.sorted, members.count, error_)) return false;
    for (size_t i = 0; i < members.count; ++i) {
      out.sorted[i] = order[i].member;
      if (i && !compared(order[i - 1], order[i])) return repeated(members[order[i].member].key);
    }
    return true;
  }

  bool repeated(Text key) {
    return fail(error_, Code::bundle, where_, kFix, "is not valid JSON (the key \"%.*s\" is there twice).",
                OD_TEXT(Text(key.data, min<size_t>(key.size, 80))));
  }

  const u8* start_;
  const u8* at_;
  const u8* end_;
  Text where_;
  Pool& pool_;
  Error& error_;
  JsonLimits limits_;
};

}  // namespace

const Json* Json::find(Text key) const {
  if (sorted.empty()) {
    for (const Member& member : members) {
      if (member.key == key) return &member.value;
    }
    return nullptr;
  }
  const u32* found = find_sorted(sorted, [&](u32 i) { return compare(members[i].key, key); });
  return found ? &members[*found].value : nullptr;
}

bool parse_json(Bytes data, Text where, Pool& pool, Json& out, Error& error, JsonLimits limits) {
  return Parser(data, where, pool, error, limits).all(out);
}

size_t decode_letter(Text text, u32& letter) {
  if (!text.size) return 0;
  const auto* c = reinterpret_cast<const u8*>(text.data);
  letter = c[0];
  if (c[0] < 0x80) return 1;
  const size_t size = c[0] >= 0xf0 ? 4 : c[0] >= 0xe0 ? 3 : 2;
  if (c[0] < 0xc2 || c[0] > 0xf4 || text.size < size) return 0;
  letter = c[0] & (0x7f >> size);
  for (size_t i = 1; i < size; ++i) {
    if (!continues(c[i])) return 0;
    letter = letter << 6 | (c[i] & 0x3f);
  }
  const u32 least = size == 2 ? 0x80 : size == 3 ? 0x800 : 0x10000;
  return letter < least || letter > 0x10ffff || (letter >= 0xd800 && letter < 0xe000) ? 0 : size;
}

size_t encode_letter(u32 letter, char out[4]) {
  if (letter < 0x80) {
    out[0] = static_cast<char>(letter);
    return 1;
  }
  const size_t size = letter < 0x800 ? 2 : letter < 0x10000 ? 3 : 4;
  for (size_t i = size - 1; i > 0; --i, letter >>= 6) out[i] = static_cast<char>(0x80 | (letter & 0x3f));
  out[0] = static_cast<char>((0xf00 >> size) | letter);
  return size;
}

bool append_json(List<char>& out, Text text) {
  const auto add = [&](const char* word) {
    for (; *word; ++word) {
      if (!out.push(*word)) return false;
    }
    return true;
  };
  if (!add("\"")) return false;
  while (text.size) {
    u32 letter;
    size_t size = decode_letter(text, letter);
    if (!size) {
      letter = 0xfffd;
      size = 1;
    }
    char word[16];
    const char* const known = "\"\\\b\f\n\r\t";
    const char* const written = "\"\\bfnrt";
    const char* found = letter && letter < 0x80 ? strchr(known, static_cast<int>(letter)) : nullptr;
    if (found) {
      snprintf(word, sizeof word, "\\%c", written[found - known]);
    } else if (letter >= 0x20 && letter < 0x7f) {
      snprintf(word, sizeof word, "%c", static_cast<char>(letter));
    } else if (letter < 0x10000) {
      snprintf(word, sizeof word, "\\u%04x", letter);
    } else {
      snprintf(word, sizeof word, "\\u%04x\\u%04x", 0xd800 + ((letter - 0x10000) >> 10),
               0xdc00 + ((letter - 0x10000) & 0x3ff));
    }
    if (!add(word)) return false;
    text = {text.data + size, text.size - size};
  }
  return add("\"");
}

}  // namespace od
