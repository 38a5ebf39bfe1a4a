// Checks of one JSON file's values, as the Python reader's (ondevice/bundle/format.py): each names the file, the place
// in it, the value found and what was expected.
#pragma once

#include "base/base.h"
#include "base/json.h"
#include "bundle/manifest.h"

namespace od {

// What to do about a bundle that is wrong.
constexpr const char* kDamaged = "copy the bundle again, or write it again with `ondevice convert`";

// Where a value is in its file: a field of, an item of, or a key in the place `up`, which must outlive it. Turned into
// text only where a check fails, so that checking a plan of thousands of dispatches stays quick.
struct Place {
  enum class Kind : u8 { root, field, item, key };

  const Place* up = nullptr;
  Kind kind = Kind::root;
  Text name;
  size_t index = 0;

  Place() = default;
  Place(const char* field_name) : kind(Kind::field), name(field_name) {}  // NOLINT: of the file's object

  Place field(Text field_name) const& { return {this, Kind::field, field_name, 0}; }
  Place item(size_t which) const& { return {this, Kind::item, {}, which}; }
  Place key(Text of_table) const& { return {this, Kind::key, of_table, 0}; }
  // Of a temporary they would outlive it.
  Place field(Text) const&& = delete;
  Place item(size_t) const&& = delete;
  Place key(Text) const&& = delete;

 private:
  Place(const Place* of, Kind what, Text field_name, size_t which)
      : up(of), kind(what), name(field_name), index(which) {}
};

// A value for an error message: its JSON, cut to 80 letters.
struct Shown {
  char text[84];
};
Shown shown(const Json& value);
Shown shown(Text value);

// Letters, digits and ._+-, at most 128, the first a letter, digit or _: one part of a path, so no "..".
bool is_name(Text text);
bool is_identifier(Text text);
// Whether a letter may be in a text for people: no control or format character, none of private use or that is none,
// and of white space the space alone.
bool prints(u32 letter);
// One to three names joined by '/': of a file of a bundle other than bundle.json.
bool is_path(Text text);
// Bytewise order of ASCII texts as if A to Z were a to z.
int compare_folded(Text a, Text b);

// Of an object; null where it has no such key, or null by it.
const Json* given(const Json& object, Text key);

// Each check gives whether it passed; where it did not, the error is filled. A value may be null where a key is not
// there, which no check takes.
class Checker {
 public:
  Checker(Text where, Error& error) : where_(where), error_(error) {}

  Text where() const { return where_; }
  Error& error() const { return error_; }
  // Always false. `what` is a printf format.
  bool fail(const Place& at, const char* what, ...) const __attribute__((format(printf, 3, 4)));

  bool integer(const Json& value, i64 low, i64 high, const Place& at, i64& out) const;
  template <class T>
  bool integer(const Json& value, i64 low, i64 high, const Place& at, T& out) const {
    i64 wide = 0;
    if (!integer(value, low, high, at, wide)) return false;
    out = static_cast<T>(wide);
    return true;
  }
  bool number(const Json& value, double low, double high, const Place& at, double& out) const;
  // True or false by a key that need not be there: then false.
  bool flag(const Json& object, Text key, const Place& at, bool& out) const;
  bool array(const Json& value, size_t low, size_t high, const Place& at) const;
  // A list of integers.
  template <class T>
  bool integers(const Json& value, i64 low, i64 high, size_t least, size_t most, const Place& at, Pool& pool,
                Span<T>& out) const {
    if (!array(value, least, most, at) || !pool.array(out, value.list.count, error_)) return false;
    for (size_t i = 0; i < out.count; ++i) {
      if (!integer(value.list[i], low, high, at.item(i), out[i])) return false;
    }
    return true;
  }
  // An object of at most `most` keys.
  bool table(const Json& value, size_t most, const Place& at) const;
  bool object(const Json& value, const Place& at) const;
  // The fields of an object, all of which must be there. Others are ignored: a later minor version may add some.
  template <size_t N>
  bool record(const Json& value, const char* const (&keys)[N], const Json* (&out)[N], const Place& at) const {
    return record(value, keys, out, N, at);
  }
  bool field(const Json& value, const char* key, const Json*& out, const Place& at) const {
    return record(value, &key, &out, 1, at);
  }
  // A name for people: 1 to 512 letters that print.
  bool text(const Json& value, const Place& at, Text& out) const;
  bool text(Text value, const Place& at) const;
  bool name(const Json& value, const Place& at, Text& out) const;
  bool name(Text value, const Place& at) const;
  bool identifier(const Json& value, const Place& at, Text& out) const;
  bool identifier(Text value, const Place& at) const;
  // Index into `known`.
  template <class T>
  bool one_of(const Json& value, Span<const Text> known, const Place& at, T& out) const {
    size_t index = 0;
    if (!one_of(value, known, at, index)) return false;
    out = static_cast<T>(index);
    return true;
  }
  bool one_of(const Json& value, Span<const Text> known, const Place& at, size_t& out) const;
  // Refuse a name that is there twice, capitals or not. Names are ASCII.
  bool distinct(Span<const Text> names, const Place& at) const;
  // A list of identifiers, all of which must be among `known`: words of later minor versions.
  bool needs(const Json& value, Span<const Text> known, const Place& at) const;

  bool dtype(const Json& value, const Place& at, Dtype& out) const;
  // A shape whose tensor of `dtype` has at most kMaxBytes.
  bool shape(const Json& value, Dtype dtype, const Place& at, Shape& out) const;
  // The bytes of a tensor, and nothing else.
  bool tensor_bytes(const Json& value, Dtype dtype, const Shape& shape, const Place& at, u64& out) const;
  // An offset, a multiple of kAlign, of `bytes` bytes before `end`.
  bool place(const Json& value, u64 bytes, u64 end, const Place& at, u64& out) const;
  bool sizes(const Json& value, const Place& at, Sizes& out) const;

 private:
  bool record(const Json& value, const char* const* keys, const Json** out, size_t count, const Place& at) const;

  Text where_;
  Error& error_;
};

}  // namespace od
