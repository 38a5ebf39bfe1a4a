#include "text/unigram.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/sort.h"
#include "bundle/checker.h"

namespace od {
namespace {

constexpr size_t kMaxLetters = 1 << 20, kLongest = 128, kLarge = 1 << 26;
constexpr double kPenalty = 10, kMostScore = 1e9;
constexpr Text kSpace = "\xe2\x96\x81";  // U+2581, which stands for a space

u64 begin_hash(u64 seed) { return seed; }
u64 add_byte(u64 hash, char byte) { return (hash ^ static_cast<u8>(byte)) * 0x100000001b3u; }

u64 hash_of(Text text, u64 seed) {
  u64 hash = begin_hash(seed);
  for (size_t i = 0; i < text.size; ++i) hash = add_byte(hash, text.data[i]);
  return hash;
}

// Letters of a text; 0 where it is no UTF-8, empty, or longer than a piece may be.
size_t letters_of(Text text) {
  size_t count = 0;
  u32 letter;
  for (size_t size; text.size; text = text.slice(size, text.size), ++count) {
    size = decode_letter(text, letter);
    if (!size || count == kLongest) return 0;
  }
  return count;
}

}  // namespace

Unigram::Slot& Unigram::place(Text text, u64 hash) const {
  const size_t last = slots_.count - 1;
  size_t at = mixed(hash, seed_) & last;
  while (slots_[at].text.size && slots_[at].text != text) at = (at + 1) & last;
  return slots_[at];
}

i32 Unigram::find(Text piece) const {
  const Slot& slot = place(piece, hash_of(piece, seed_));
  return slot.text.size ? slot.id : -1;
}

bool Unigram::open(Span<const NamedFile> files, Text where, Vocabulary& out, Error& error) {
  Pool scratch;
  Json whole;
  Bytes text, table;
  char place[400], of_table[400];
  snprintf(place, sizeof place, "%.*s/unigram.json", OD_TEXT(where));
  snprintf(of_table, sizeof of_table, "%.*s/charsmap.bin", OD_TEXT(where));
  for (const NamedFile& file : files) {
    if (file.name == "unigram.json") text = file.bytes;
    if (file.name == "charsmap.bin") table = file.bytes;
  }
  if (text.empty()) return fail(error, Code::bundle, place, kDamaged, "is missing.");
  if (text.count > kLarge || table.count > kLarge) return fail(error, Code::bundle, place, kDamaged, "is too large.");
  const Text copy = table.empty() ? Text() : pool_.copy({reinterpret_cast<const char*>(table.data), table.count});
  if (copy.size != table.count) return Pool::no_memory(error, table.count);
  if (!parse_json(text, place, scratch, whole, error)) return false;
  const Checker check(place, error);
  List<bool> plain;  // pieces that texts become, by id
  const Json *rows = nullptr, *unknown = nullptr, *end = nullptr, *padding = nullptr;
  const i64 most = static_cast<i64>(kMaxTokens) - 1;
  i32 ids[3];
  if (!check.object(whole, {}) || !check.field(whole, "pieces", rows, {}) ||
      !check.array(*rows, 1, kMaxTokens, "pieces") || !read_pieces(*rows, place, plain, error) ||
      !check.field(whole, "unknown", unknown, {}) || !check.field(whole, "end", end, {}) ||
      !check.field(whole, "padding", padding, {}) || !check.integer(*unknown, 0, most, "unknown", ids[0]) ||
      !check.integer(*end, 0, most, "end", ids[1]) || !check.integer(*padding, 0, most, "padding", ids[2]) ||
      !read_added(whole, place, plain, *rows, out, error)) {
    return false;
  }
  const char* const names[] = {"unknown", "end", "padding"};
  for (int i = 0; i < 3; ++i) {
    const auto id = static_cast<size_t>(ids[i]);
    bool known = id < plain.size() && !plain[id];
    for (const AddedToken& token : out.plain.tokens) known = known || token.id == ids[i];
    if (known) continue;
    return check.fail(names[i], "is the id of a piece that texts become, or of none (got %d)", ids[i]);
  }
  unknown_ = ids[0];
  out.start = -1;
  out.end = ids[1];
  out.pad = ids[2];
  return charsmap_.open(copy.bytes(), of_table, error);
}

bool Unigram::read_pieces(const Json& rows, Text where, List<bool>& plain, Error& error) {
  const size_t count = rows.list.count;
  seed_ = new_seed();
  if (!plain.resize(count) || !pool_.array(slots_, table_size(count), error)) return Pool::no_memory(error, count);
  double lowest = INFINITY;
  for (size_t i = 0; i < count; ++i) {
    const Json& row = rows.list[i];
    const bool pair = row.is(Json::Kind::list) && row.list.count == 2 && row.list[0].is(Json::Kind::text);
    const size_t letters = pair ? letters_of(row.list[0].text) : 0;
    const bool none = pair && row.list[1].is(Json::Kind::null);
    const bool number = pair && (row.list[1].is(Json::Kind::real) || row.list[1].is(Json::Kind::integer));
    if (!letters || !(none || (number && fabs(row.list[1].real) < kMostScore))) {
      return fail(error, Code::bundle, where, kDamaged,
                  "piece %zu is no text of 1 to %zu letters with a score (got %s).", i, kLongest, shown(row).text);
    }
    if (none) continue;
    plain[i] = true;
    const Text text = pool_.copy(row.list[0].text);
    if (!text.size) return Pool::no_memory(error, row.list[0].text.size);
    Slot& slot = place(text, hash_of(text, seed_));
    if (slot.text.size) {
      return fail(error, Code::bundle, where, kDamaged, "two of its pieces or added tokens are one, or it has none.");
    }
    slot = {text, row.list[1].real, static_cast<i32>(i)};
    lengths_[letters] = true;
    longest_ = max(longest_, static_cast<u32>(letters));
    lowest = min(lowest, row.list[1].real);
  }
  least_ = lowest - kPenalty;
  return longest_ ||
         fail(error, Code::bundle, where, kDamaged, "two of its pieces or added tokens are one, or it has none.");
}

bool Unigram::read_added(const Json& whole, Text where, const List<bool>& plain, const Json& pieces, Vocabulary& out,
                         Error& error) {
  const Checker check(where, error);
  const Json* table = nullptr;
  if (!check.field(whole, "added", table, {}) || !check.table(*table, kMaxTokens, "added") ||
      !pool_.array(out.plain.tokens, table->members.count, error)) {
    return false;
  }
  for (size_t i = 0; i < table->members.count; ++i) {
    const Member& row = table->members[i];
    const Json* content = row.value.is(Json::Kind::object) ? row.value.find("content") : nullptr;
    bool known = row.key.size > 0 && row.key.size < 8;
    size_t id = 0;
    for (size_t k = 0; k < row.key.size && known; ++k) {
      known = row.key.data[k] >= '0' && row.key.data[k] <= '9';
      id = 10 * id + static_cast<size_t>(row.key.data[k] - '0');
    }
    if (!known || id >= kMaxTokens || !content || !content->is(Json::Kind::text) || !letters_of(content->text)) {
      return fail(error, Code::bundle, where, kDamaged,
                  "an added token is no id with a text of 1 to %zu letters (got %s: %s).", kLongest,
                  shown(row.key).text, shown(row.value).text);
    }
    AddedToken& token = out.plain.tokens[i];
    token = {pool_.copy(content->text), {}, static_cast<i32>(id), false, false, false, false, 1};
    token.sought = token.content;
    if (!token.content.size) return Pool::no_memory(error, content->text.size);
    if (!check.flag(row.value, "lstrip", "added", token.lstrip) ||
        !check.flag(row.value, "rstrip", "added", token.rstrip)) {
      return false;
    }
    out.plain.begins[static_cast<u8>(token.content.data[0])] = true;
    if (id < plain.size() && (plain[id] || pieces.list[id].list[0].text != token.content)) {
      return fail(error, Code::bundle, where, kDamaged, "the added token %s has the id of another piece (got %zu).",
                  shown(token.content).text, id);
    }
  }
  sort(out.plain.tokens, [](const AddedToken& a, const AddedToken& b) { return compare(a.sought, b.sought) < 0; });
  for (size_t i = 1; i < out.plain.tokens.count; ++i) {
    if (out.plain.tokens[i].sought != out.plain.tokens[i - 1].sought) continue;
    return fail(error, Code::bundle, where, kDamaged, "two of its pieces or added tokens are one, or it has none.");
  }
  return true;
}

bool Unigram::cut(Text text, List<i32>& ids, bool& too_long) const {
  List<char> replaced, letters;
  if (!charsmap_.replace(text, replaced)) return false;
  // One U+2581 before each word; where letters begin, and at last where they end.
  List<u32> places;
  bool begins = true;
  size_t all = 0;
  for (size_t at = 0, size; at < replaced.size(); at += size) {
    u32 letter;
    const Text rest(replaced.begin() + at, replaced.size() - at);
    size = max<size_t>(decode_letter(rest, letter), 1);
    ++all;
    if (rest.data[0] == ' ') {
      begins = true;
      continue;
    }
    const Text parts[] = {begins ? kSpace : Text(), rest.slice(0, size)};
    for (const Text part : parts) {
      if (part.size && !places.push(static_cast<u32>(letters.size()))) return false;
      for (size_t i = 0; i < part.size; ++i) {
        if (!letters.push(part.data[i])) return false;
      }
    }
    begins = false;
  }
  const size_t count = places.size();
  too_long = too_long || all > kMaxLetters;
  if (too_long || !count) return true;
  if (!places.push(static_cast<u32>(letters.size()))) return false;
  struct Best {
    double sum;
    u32 start;
    i32 id;
  };
  List<Best> best;
  if (!best.resize(count + 1)) return false;
  for (size_t i = 1; i <= count; ++i) best[i].sum = -INFINITY;
  for (u32 start = 0; start < count; ++start) {
    const double before = best[start].sum;
    const auto offer = [&](size_t end, double score, i32 id) {
      if (before + score > best[end].sum) best[end] = {before + score, start, id};
    };
    bool alone = false;
    u64 hash = begin_hash(seed_);
    for (u32 length = 1; length <= longest_ && start + length <= count; ++length) {
      for (u32 at = places[start + length - 1]; at < places[start + length]; ++at) hash = add_byte(hash, letters[at]);
      if (!lengths_[length]) continue;
      const Text piece(letters.begin() + places[start], places[start + length] - places[start]);
      const Slot& slot = place(piece, hash);
      if (!slot.text.size) continue;
      alone = alone || length == 1;
      offer(start + length, slot.score, slot.id);
    }
    if (!alone) offer(start + 1, least_, unknown_);
  }
  const size_t first = ids.size();
  for (size_t end = count; end; end = best[end].start) {  // backwards; of unknown ones that follow each other one
    const bool again = best[end].id == unknown_ && ids.size() > first && ids.back() == unknown_;
    if (!again && !ids.push(best[end].id)) return false;
  }
  for (size_t low = first, high = ids.size(); low + 1 < high; ++low, --high) {
    const i32 other = ids[low];
    ids[low] = ids[high - 1];
    ids[high - 1] = other;
  }
  return true;
}

}  // namespace od
