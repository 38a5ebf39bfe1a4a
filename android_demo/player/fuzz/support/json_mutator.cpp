// Changes that know JSON: values are moved, retyped, renamed, doubled and exchanged for numbers at the edges of ranges.
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "support/fuzz.h"

namespace od::fuzz {
namespace {

constexpr double kEdges[] = {
    0,
    1,
    -1,
    2,
    3,
    4,
    8,
    63,
    64,
    65,
    127,
    255,
    256,
    511,
    512,
    513,
    1023,
    1024,
    1025,
    1536,
    65535,
    65536,
    65537,
    1048576,
    2147483647,
    2147483648.,
    -2147483648.,
    -2147483649.,
    4294967295.,
    4294967296.,
    1099511627776.,
    1099511628288.,
    9007199254740992.,
    9223372036854775807.,
    -9223372036854775808.,
    1e300,
    1e39,
    0.5,
    1e-9,
    -0.5,
};

class Mutator {
 public:
  explicit Mutator(u32 seed) : chance_(seed) {}

  bool change(Bytes text, size_t most, List<char>& out) {
    Json whole;
    Error error;
    if (!parse_json(text, "", pool_, whole, error, {1 << 20, 100000, 32})) return false;
    visit(whole, 0);
    for (u32 count = 1 + chance_.below(2) * chance_.below(3); count; --count) change_one();
    most_ = most;
    return write(whole, 0, out);
  }

 private:
  void visit(Json& value, u32 depth) {
    values_.push(&value);
    if (value.is(Json::Kind::text)) texts_.push(value.text);
    if (value.number()) numbers_.push(value.real);
    for (Json& one : value.list) visit(one, depth + 1);
    for (Member& one : value.members) {
      texts_.push(one.key);
      visit(one.value, depth + 1);
    }
  }

  void change_one() {
    Json& value = *values_[chance_.below(values_.size())];
    switch (chance_.below(8)) {
      case 0:
        value = *values_[chance_.below(values_.size())];
        return;
      case 1:
        return retype(value);
      default:
        break;
    }
    switch (value.kind) {
      case Json::Kind::integer:
      case Json::Kind::real:
        return change_number(value);
      case Json::Kind::text:
        value.text = change_text(value.text);
        return;
      case Json::Kind::list:
        return change_list(value);
      case Json::Kind::object:
        return change_object(value);
      default:
        return retype(value);
    }
  }

  void retype(Json& value) {
    value = Json();
    value.kind = static_cast<Json::Kind>(chance_.below(7));
    value.boolean = chance_.below(2);
    if (value.number()) change_number(value);
    if (value.is(Json::Kind::text) && !texts_.empty()) value.text = texts_[chance_.below(texts_.size())];
  }

  void change_number(Json& value) {
    const double step = chance_.below(2) ? 1 : 512;  // what an index and a place differ by
    switch (chance_.below(8)) {
      case 0:
        value.real += step;
        break;
      case 1:
        value.real -= step;
        break;
      case 2:
        value.real *= 2;
        break;
      case 3:
      case 4:
      case 5:
        if (!numbers_.empty()) value.real = numbers_[chance_.below(numbers_.size())];
        break;
      default:
        value.real = kEdges[chance_.below(sizeof kEdges / sizeof *kEdges)];
    }
    whole_ =
        value.real >= -9e18 && value.real <= 9e18 && value.real == static_cast<double>(static_cast<i64>(value.real));
    value.kind = whole_ && chance_.below(16) ? Json::Kind::integer : Json::Kind::real;
    value.too_large = false;
    value.integer = whole_ ? static_cast<i64>(value.real) : 0;
  }

  Text change_text(Text text) {
    if (chance_.below(2) && !texts_.empty()) return texts_[chance_.below(texts_.size())];
    Span<char> bytes;
    Error error;
    if (!pool_.array(bytes, text.size + 16, error)) return text;
    memcpy(bytes.data, text.data, text.size);
    return {bytes.data, LLVMFuzzerMutate(reinterpret_cast<u8*>(bytes.data), text.size, bytes.count)};
  }

  // A list, or an object, that was moved into itself lies in itself: it is changed as a copy, and put there at the end.
  void change_list(Json& value) {
    const Span<Json> list = value.list;
    const size_t count = list.count;
    if (!count) return retype(value);
    const u32 at = chance_.below(count), other = chance_.below(count);
    const Json kept = list[at];
    Error error;
    Span<Json> longer;
    switch (chance_.below(4)) {
      case 0:
        list[at] = list[count - 1];
        value.list = list.slice(0, count - 1);
        return;
      case 1:
        list[at] = list[other];
        list[other] = kept;
        return;
      case 2:
        list[at] = list[other];
        return;
      default:
        if (!pool_.array(longer, count + 1, error)) return;
        for (size_t i = 0; i < count; ++i) longer[i] = list[i];
        longer[count] = list[other];
        value.list = longer;
    }
  }

  void change_object(Json& value) {
    const Span<Member> members = value.members;
    const size_t count = members.count;
    if (!count) return retype(value);
    const u32 at = chance_.below(count);
    Error error;
    Span<Member> longer;
    switch (chance_.below(3)) {
      case 0:
        members[at] = members[count - 1];
        value.members = members.slice(0, count - 1);
        return;
      case 1:
        members[at].key = change_text(members[at].key);
        return;
      default:
        if (!pool_.array(longer, count + 1, error)) return;
        for (size_t i = 0; i < count; ++i) longer[i] = members[i];
        longer[count] = {change_text(members[at].key), *values_[chance_.below(values_.size())]};
        value.members = longer;
    }
  }

  bool add(List<char>& out, Text text) {
    for (size_t i = 0; i < text.size; ++i) {
      if (!out.push(text.data[i])) return false;
    }
    return out.size() <= most_;
  }

  // False where a value that was moved into itself has no end.
  bool write(const Json& value, u32 depth, List<char>& out) {
    char number[64];
    if (depth > 40) return false;
    switch (value.kind) {
      case Json::Kind::null:
        return add(out, "null");
      case Json::Kind::boolean:
        return add(out, value.boolean ? "true" : "false");
      case Json::Kind::integer:
        snprintf(number, sizeof number, "%lld", static_cast<long long>(value.integer));
        return add(out, number);
      case Json::Kind::real:
        write_number(number, sizeof number, value.real);
        return add(out, number);
      case Json::Kind::text:
        return append_json(out, value.text) && out.size() <= most_;
      case Json::Kind::list:
        if (!add(out, "[")) return false;
        for (size_t i = 0; i < value.list.count; ++i) {
          if ((i && !add(out, ",")) || !write(value.list[i], depth + 1, out)) return false;
        }
        return add(out, "]");
      case Json::Kind::object:
        if (!add(out, "{")) return false;
        for (size_t i = 0; i < value.members.count; ++i) {
          if ((i && !add(out, ",")) || !append_json(out, value.members[i].key) || !add(out, ":") ||
              !write(value.members[i].value, depth + 1, out)) {
            return false;
          }
        }
        return add(out, "}");
    }
    return false;
  }

  Pool pool_{64 << 20};
  Chance chance_;
  List<Json*> values_;
  List<Text> texts_;
  List<double> numbers_;
  size_t most_ = 0;
  bool whole_ = false;
};

constexpr size_t kRemembered = 64, kLongest = 1 << 13;
struct {
  u8 data[kLongest];
  size_t size;
} accepted[kRemembered];
size_t count_accepted = 0;

}  // namespace

void remember(Bytes input) {
  if (!input.count || input.count > kLongest) return;
  Chance chance(static_cast<u32>(count_accepted));
  auto& place = accepted[count_accepted < kRemembered ? count_accepted : chance.below(kRemembered)];
  memcpy(place.data, input.data, input.count);
  place.size = input.count;
  ++count_accepted;
}

Bytes part(Bytes input, u32 which) {
  size_t begin = 0;
  for (size_t i = 0; i <= input.count; ++i) {
    if (i < input.count && input[i]) continue;
    if (!which--) return input.slice(begin, i);
    begin = i + 1;
  }
  return {};
}

size_t mutate_json(u8* data, size_t size, size_t most, u32 seed) {
  Chance chance(seed);
  if (count_accepted && chance.below(2)) {
    const auto& base = accepted[chance.below(min(count_accepted, kRemembered))];
    if (base.size <= most) {
      memcpy(data, base.data, base.size);
      size = base.size;
    }
  }
  if (!chance.below(8)) return LLVMFuzzerMutate(data, size, most);
  u32 parts = 1;
  for (size_t i = 0; i < size; ++i) parts += !data[i];
  const u32 chosen = chance.below(3) ? parts - 1 : chance.below(parts);
  const Bytes text = part({data, size}, chosen);
  const size_t begin = static_cast<size_t>(text.data - data), rest = size - begin - text.count;
  if (!text.data) return LLVMFuzzerMutate(data, size, most);
  const size_t room = most - begin - rest;
  List<char> changed;
  Mutator mutator(seed);
  if (!mutator.change(text, room, changed)) {
    // Not JSON, or none that has room: the part alone, so that those before and after it stay.
    if (!room || !changed.resize(min(room, text.count + 64))) return size;
    memcpy(changed.begin(), text.data, text.count);
    auto* bytes = reinterpret_cast<u8*>(changed.begin());
    changed.resize(LLVMFuzzerMutate(bytes, text.count, changed.size()));
  }
  memmove(data + begin + changed.size(), data + begin + text.count, rest);
  memcpy(data + begin, changed.begin(), changed.size());
  return begin + changed.size() + rest;
}

}  // namespace od::fuzz
