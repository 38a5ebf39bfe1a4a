#include <string.h>

#include "base/os.h"
#include "bundle/checker.h"
#include "text/vocabulary.h"

namespace od {

size_t table_size(size_t count) {
  size_t size = 8;
  while (size < 2 * count) size *= 2;
  return size;
}

u64 mixed(u64 key, u64 seed) {
  u64 hash = (key ^ seed) * 0x9e3779b97f4a7c15u;
  hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93u;
  return hash ^ hash >> 32;
}

u64 new_seed() {
  int here;
  return mixed(static_cast<u64>(seconds() * 1e9), reinterpret_cast<uintptr_t>(&here));
}

u64 TokenIds::hash(Text first, Text second) const {
  u64 hash = seed_;
  for (const u8 byte : first.bytes()) hash = (hash ^ byte) * 0x100000001b3u;
  for (const u8 byte : second.bytes()) hash = (hash ^ byte) * 0x100000001b3u;
  return mixed(hash, seed_);
}

bool TokenIds::read(const Json& vocab, Text where, Error& error) {
  const auto wrong = [&](const char* what, auto... values) {
    return fail(error, Code::bundle, where, kDamaged, what, values...);
  };
  members_ = vocab.members;
  if (members_.empty() || members_.count > kMaxTokens) {
    return wrong("has a wrong number of tokens (got %zu, expected 1 to %zu).", members_.count, kMaxTokens);
  }
  seed_ = new_seed();
  const size_t size = table_size(members_.count);
  if (!slots_.resize(size) || !taken_.resize(kMaxTokens / 64)) return Pool::no_memory(error, size * sizeof(Slot));
  for (u32 i = 0; i < members_.count; ++i) {
    const Json& id = members_[i].value;
    if (!id.is(Json::Kind::integer) || id.too_large || id.integer < 0 || id.integer >= i64(kMaxTokens)) {
      return wrong("token %s has no usable id (got %s, expected an integer from 0 to %zu).",
                   shown(members_[i].key).text, shown(id).text, kMaxTokens - 1);
    }
    u64& bits = taken_[static_cast<size_t>(id.integer) / 64];
    const u64 bit = u64(1) << (id.integer % 64);
    if (bits & bit) return wrong("has two tokens with the id %lld (expected one id per token).", (long long)id.integer);
    bits |= bit;
    highest_ = max(highest_, static_cast<i32>(id.integer));
    const u64 key = hash(members_[i].key, {});
    size_t at = key & (size - 1);
    while (slots_[at].text) at = (at + 1) & (size - 1);
    slots_[at] = {members_[i].key.data, static_cast<u32>(members_[i].key.size), static_cast<u32>(key >> 32),
                  static_cast<i32>(id.integer)};
  }
  return true;
}

i32 TokenIds::find(Text first, Text second) const {
  const u64 key = hash(first, second);
  for (size_t at = key & (slots_.size() - 1); slots_[at].text; at = (at + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[at];
    if (slot.tag != static_cast<u32>(key >> 32) || slot.size != first.size + second.size) continue;
    if (memcmp(slot.text, first.data, first.size) == 0 &&
        memcmp(slot.text + first.size, second.data, second.size) == 0) {
      return slot.id;
    }
  }
  return -1;
}

bool Merges::reserve(size_t count, Pool& pool, Error& error) {
  seed_ = new_seed();
  if (!pool.array(slots_, table_size(count), error)) return false;
  for (Merge& slot : slots_) slot.left = -1;
  return true;
}

Merges::Merge* Merges::place(i32 left, i32 right) const {
  const size_t last = slots_.count - 1;
  size_t at = mixed(u64(u32(left)) << 32 | u32(right), seed_) & last;
  while (slots_[at].left >= 0 && (slots_[at].left != left || slots_[at].right != right)) at = (at + 1) & last;
  return &slots_[at];
}

void Merges::add(const Merge& merge) { *place(merge.left, merge.right) = merge; }

const Merges::Merge* Merges::find(i32 left, i32 right) const {
  const Merge* found = place(left, right);
  return found->left >= 0 ? found : nullptr;
}

}  // namespace od
