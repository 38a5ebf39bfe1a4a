#include "bundle/checker.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/sort.h"

namespace od {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
u8 lower(char c) { return static_cast<u8>(c >= 'A' && c <= 'Z' ? c + 32 : c); }

// Letters that do not print: controls, formats, spaces but the one, separators, private use and those that are none.
constexpr struct {
  u32 first, last;
} kUnprinted[] = {
    {0x0, 0x1f},        {0x7f, 0xa0},        {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
    {0x6dd, 0x6dd},     {0x70f, 0x70f},      {0x890, 0x891},     {0x8e2, 0x8e2},     {0x1680, 0x1680},
    {0x180e, 0x180e},   {0x2000, 0x200f},    {0x2028, 0x202f},   {0x205f, 0x206f},   {0x3000, 0x3000},
    {0xd800, 0xf8ff},   {0xfdd0, 0xfdef},    {0xfeff, 0xfeff},   {0xfff9, 0xfffb},   {0xfffe, 0xffff},
    {0x110bd, 0x110bd}, {0x110cd, 0x110cd},  {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
    {0xe0001, 0xe007f}, {0xf0000, 0x10ffff},
};

void append(List<char>& out, Text text) {
  for (size_t i = 0; i < text.size; ++i) out.push(text.data[i]);
}

// "pipeline.numbers["steps"].low": the places above first.
void append_place(List<char>& out, const Place& place) {
  if (place.kind == Place::Kind::root) return;
  if (place.up) append_place(out, *place.up);
  char number[32];
  switch (place.kind) {
    case Place::Kind::root:
      break;
    case Place::Kind::field:
      if (!out.empty()) out.push('.');
      append(out, place.name);
      break;
    case Place::Kind::item:
      snprintf(number, sizeof number, "[%zu]", place.index);
      append(out, number);
      break;
    case Place::Kind::key:
      out.push('[');
      append(out, shown(place.name).text);
      out.push(']');
  }
}

Shown cut(Text json) {
  Shown out;
  const bool whole = json.size <= 80;
  snprintf(out.text, sizeof out.text, "%.*s%s", whole ? static_cast<int>(json.size) : 77, json.data,
           whole ? "" : "...");
  return out;
}

}  // namespace

bool prints(u32 letter) {
  for (const auto& range : kUnprinted) {
    if (letter <= range.last) return letter < range.first;
  }
  return (letter & 0xfffe) != 0xfffe;
}

Shown shown(Text value) {
  List<char> json;
  append_json(json, {value.data, min<size_t>(value.size, 96)});  // a byte is at least one letter of the 80
  return cut({json.begin(), json.size()});
}

Shown shown(const Json& value) {
  Shown out;
  switch (value.kind) {
    case Json::Kind::null:
      return {"null"};
    case Json::Kind::boolean:
      return value.boolean ? Shown{"true"} : Shown{"false"};
    case Json::Kind::integer:
      if (!value.too_large) {
        snprintf(out.text, sizeof out.text, "%lld", static_cast<long long>(value.integer));
        return out;
      }
      [[fallthrough]];
    case Json::Kind::real:
      write_number(out.text, sizeof out.text, value.real);
      return out;
    case Json::Kind::text:
      return shown(value.text);
    case Json::Kind::list:
      snprintf(out.text, sizeof out.text, "a list of %zu", value.list.count);
      return out;
    case Json::Kind::object:
      snprintf(out.text, sizeof out.text, "an object of %zu", value.members.count);
      return out;
  }
  return {"null"};
}

bool is_name(Text text) {
  if (text.size < 1 || text.size > 128 || !(is_letter(text.data[0]) || is_digit(text.data[0]))) return false;
  for (const u8 byte : text.bytes()) {
    const char c = static_cast<char>(byte);
    if (!is_letter(c) && !is_digit(c) && c != '.' && c != '+' && c != '-') return false;
  }
  return true;
}

bool is_identifier(Text text) {
  if (text.size < 1 || text.size > 64 || !is_letter(text.data[0])) return false;
  for (const u8 byte : text.bytes()) {
    if (!is_letter(static_cast<char>(byte)) && !is_digit(static_cast<char>(byte))) return false;
  }
  return true;
}

bool is_path(Text text) {
  size_t parts = 0, begin = 0;
  for (size_t i = 0; i <= text.size; ++i) {
    if (i < text.size && text.data[i] != '/') continue;
    if (++parts > 3 || !is_name(text.slice(begin, i))) return false;
    begin = i + 1;
  }
  return compare_folded(text, "bundle.json") != 0;
}

int compare_folded(Text a, Text b) {
  for (size_t i = 0; i < min(a.size, b.size); ++i) {
    if (const int order = lower(a.data[i]) - lower(b.data[i])) return order;
  }
  return a.size < b.size ? -1 : static_cast<int>(a.size > b.size);
}

const Json* given(const Json& object, Text key) {
  const Json* value = object.find(key);
  return value && value->is(Json::Kind::null) ? nullptr : value;
}

bool Checker::fail(const Place& at, const char* what, ...) const {
  char text[1200];
  va_list arguments;
  va_start(arguments, what);
  vsnprintf(text, sizeof text, what, arguments);
  va_end(arguments);
  List<char> path;
  append_place(path, at);
  const Text place(path.begin(), min<size_t>(path.size(), 300));
  return od::fail(error_, Code::bundle, where_, kDamaged, "%.*s%s%s.", OD_TEXT(place), place.size ? " " : "", text);
}

bool Checker::integer(const Json& value, i64 low, i64 high, const Place& at, i64& out) const {
  out = value.integer;
  if (value.is(Json::Kind::integer) && !value.too_large && value.integer >= low && value.integer <= high) return true;
  return fail(at, "is %s (expected %lld..%lld)", shown(value).text, static_cast<long long>(low),
              static_cast<long long>(high));
}

bool Checker::number(const Json& value, double low, double high, const Place& at, double& out) const {
  out = value.real;
  if (value.number() && value.real >= low && value.real <= high) return true;
  return fail(at, "is %s (expected a number %g..%g)", shown(value).text, low, high);
}

bool Checker::flag(const Json& object, Text key, const Place& at, bool& out) const {
  const Json* value = object.find(key);
  out = value && value->boolean;
  return !value || value->is(Json::Kind::boolean) ||
         fail(at.field(key), "is %s (expected true or false)", shown(*value).text);
}

bool Checker::array(const Json& value, size_t low, size_t high, const Place& at) const {
  if (value.is(Json::Kind::list) && value.list.count >= low && value.list.count <= high) return true;
  if (low == high) return fail(at, "is %s (expected a list of %zu)", shown(value).text, low);
  return fail(at, "is %s (expected a list of %zu..%zu)", shown(value).text, low, high);
}

bool Checker::table(const Json& value, size_t most, const Place& at) const {
  if (value.is(Json::Kind::object) && value.members.count <= most) return true;
  return fail(at, "is %s (expected an object of at most %zu)", shown(value).text, most);
}

bool Checker::object(const Json& value, const Place& at) const {
  return value.is(Json::Kind::object) || fail(at, "is %s (expected an object)", shown(value).text);
}

bool Checker::record(const Json& value, const char* const* keys, const Json** out, size_t count,
                     const Place& at) const {
  if (!object(value, at)) return false;
  for (size_t i = 0; i < count; ++i) {
    out[i] = value.find(keys[i]);
    if (!out[i]) return fail(at.field(keys[i]), "is missing");
  }
  return true;
}

bool Checker::text(const Json& value, const Place& at, Text& out) const {
  out = value.text;
  if (!value.is(Json::Kind::text)) return fail(at, "is %s (expected 1..512 printable characters)", shown(value).text);
  return text(value.text, at);
}

bool Checker::text(Text value, const Place& at) const {
  size_t count = 0, size = 0;
  bool good = value.size > 0;
  for (Text rest = value; good && rest.size; rest = {rest.data + size, rest.size - size}) {
    u32 letter = 0;
    size = decode_letter(rest, letter);
    good = size && prints(letter) && ++count <= 512;
  }
  return good || fail(at, "is %s (expected 1..512 printable characters)", shown(value).text);
}

bool Checker::name(const Json& value, const Place& at, Text& out) const {
  out = value.text;
  if (value.is(Json::Kind::text) && is_name(value.text)) return true;
  return fail(at, "is %s (expected a file name of letters, digits and ._+-)", shown(value).text);
}

bool Checker::name(Text value, const Place& at) const {
  return is_name(value) || fail(at, "is %s (expected a file name of letters, digits and ._+-)", shown(value).text);
}

bool Checker::identifier(const Json& value, const Place& at, Text& out) const {
  out = value.text;
  if (value.is(Json::Kind::text) && is_identifier(value.text)) return true;
  return fail(at, "is %s (expected an identifier)", shown(value).text);
}

bool Checker::identifier(Text value, const Place& at) const {
  return is_identifier(value) || fail(at, "is %s (expected an identifier)", shown(value).text);
}

bool Checker::one_of(const Json& value, Span<const Text> known, const Place& at, size_t& out) const {
  if (value.is(Json::Kind::text)) {
    for (out = 0; out < known.count; ++out) {
      if (known[out] == value.text) return true;
    }
  }
  if (known.empty()) return fail(at, "is %s (expected nothing here)", shown(value).text);
  List<Text> order;
  if (!order.resize(known.count)) return Pool::no_memory(error_, known.count * sizeof(Text));
  for (size_t i = 0; i < known.count; ++i) order[i] = known[i];
  sort(order.span(), [](Text a, Text b) { return compare(a, b) < 0; });
  List<char> listed;
  for (size_t i = 0; i < min<size_t>(order.size(), 8); ++i) {
    append(listed, i ? ", " : "");
    append(listed, {order[i].data, min<size_t>(order[i].size, 64)});
  }
  append(listed, order.size() > 8 ? ", ..." : "");
  return fail(at, "is %s (expected one of: %.*s)", shown(value).text, static_cast<int>(listed.size()), listed.begin());
}

bool Checker::distinct(Span<const Text> names, const Place& at) const {
  List<u32> order;
  if (!order.resize(names.count)) return Pool::no_memory(error_, names.count * sizeof(u32));
  for (u32 i = 0; i < names.count; ++i) order[i] = i;
  const auto folded = [&](u32 i, u32 j) { return compare_folded(names[i], names[j]); };
  sort(order.span(), [&](u32 i, u32 j) {
    const int first = folded(i, j);
    return first ? first < 0 : i < j;
  });
  size_t repeated = names.count;  // the first name that was there before
  for (size_t i = 1; i < order.size(); ++i) {
    if (!folded(order[i - 1], order[i])) repeated = min<size_t>(repeated, order[i]);
  }
  return repeated == names.count || fail(at, "names %s twice", shown(names[repeated]).text);
}

bool Checker::needs(const Json& value, Span<const Text> known, const Place& at) const {
  if (!array(value, 0, kMaxNeeds, at)) return false;
  Text word;
  for (size_t i = 0; i < value.list.count; ++i) {
    if (!identifier(value.list[i], at.item(i), word)) return false;
  }
  for (size_t i = 0; i < value.list.count; ++i) {
    bool found = false;
    for (const Text one : known) found = found || one == value.list[i].text;
    if (!found) {
      return fail(at.item(i), "asks for %s, which this version does not know; install a newer ondevice",
                  shown(value.list[i]).text);
    }
  }
  return true;
}

bool Checker::dtype(const Json& value, const Place& at, Dtype& out) const {
  static constexpr Dtype kAll[] = {Dtype::f32, Dtype::f16, Dtype::i32, Dtype::i8, Dtype::u4x2};  // in their order
  Text names[5];
  for (size_t i = 0; i < 5; ++i) names[i] = name_of(kAll[i]);
  return one_of(value, {names, 5}, at, out);
}

bool Checker::shape(const Json& value, Dtype dtype, const Place& at, Shape& out) const {
  if (!array(value, 0, kMaxRank, at)) return false;
  out = {};
  for (const Json& item : value.list) {
    if (!integer(item, 1, INT32_MAX, at.item(out.rank), out.dims[out.rank])) return false;
    ++out.rank;
  }
  u64 bytes = bytes_of(dtype);
  for (u32 i = 0; i < out.rank && bytes <= kMaxBytes; ++i) bytes *= out.dims[i];  // below 2^40 and 2^31
  char dims[128];
  return bytes <= kMaxBytes || fail(at, "is %s (expected at most %llu bytes)", out.shown(dims, sizeof dims),
                                    static_cast<unsigned long long>(kMaxBytes));
}

bool Checker::tensor_bytes(const Json& value, Dtype dtype, const Shape& shape, const Place& at, u64& out) const {
  if (!integer(value, 1, kMaxBytes, at, out)) return false;
  const u64 wanted = shape.count() * bytes_of(dtype);
  char dims[128];
  return out == wanted || fail(at, "is %llu (expected %llu for %s%s)", static_cast<unsigned long long>(out),
                               static_cast<unsigned long long>(wanted), name_of(dtype), shape.shown(dims, sizeof dims));
}

bool Checker::place(const Json& value, u64 bytes, u64 end, const Place& at, u64& out) const {
  if (!integer(value, 0, kMaxBytes, at, out)) return false;
  if (out % kAlign == 0 && out + bytes <= end) return true;
  return fail(at, "is %llu (expected a multiple of %llu with %llu bytes before %llu)",
              static_cast<unsigned long long>(out), static_cast<unsigned long long>(kAlign),
              static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(end));
}

bool Checker::sizes(const Json& value, const Place& at, Sizes& out) const {
  if (!table(value, kMaxRank, at)) return false;
  out = {};
  for (const Member& member : value.members) {
    u32 size = 0;
    if (!identifier(member.key, at) || !integer(member.value, 1, 65536, at.key(member.key), size)) return false;
    out.names[out.count] = member.key;
    out.values[out.count++] = size;
  }
  return true;
}

}  // namespace od
