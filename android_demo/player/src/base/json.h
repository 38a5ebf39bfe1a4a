// Strict JSON, as docs/bundle.md says it ("JSON"): bounded, no repeated keys, no NaN, no lone surrogates.
#pragma once

#include "base/base.h"

namespace od {

struct Member;

// One value. Texts are unescaped and live in the pool, as lists and objects do.
struct Json {
  enum class Kind : u8 { null, boolean, integer, real, text, list, object };

  Kind kind = Kind::null;
  bool boolean = false;
  bool too_large = false;  // a whole number that i64 does not hold; `real` is near it
  i64 integer = 0;         // of Kind::integer: written with neither fraction nor exponent
  double real = 0;         // of both kinds of numbers
  Text text;
  Span<Json> list;
  Span<Member> members;  // in the order of the text
  Span<u32> sorted;      // their order by key, where there are more than a few

  bool is(Kind wanted) const { return kind == wanted; }
  bool number() const { return kind == Kind::integer || kind == Kind::real; }
  // Of an object; null where it has no such key, or is none.
  const Json* find(Text key) const;
};

struct Member {
  Text key;
  Json value;
};

struct JsonLimits {
  size_t bytes = 64 << 20, values = 2000000, depth = 32;
};

// Parse all of `data`. Code::bundle, naming `where`.
bool parse_json(Bytes data, Text where, Pool& pool, Json& out, Error& error, JsonLimits limits = {});

// A text as JSON has it: in quotation marks, ASCII only, as Python's json.dumps; into a list of bytes.
bool append_json(List<char>& out, Text text);

// Well-formed UTF-8: no surrogates, nothing overlong. `size` of the first letter of `text`, its code point in `letter`;
// 0 where it is not one.
size_t decode_letter(Text text, u32& letter);
size_t encode_letter(u32 letter, char out[4]);

}  // namespace od
