// The part of a session that puts adapters into weights.
#include <stdio.h>

#include "device/session.h"

namespace od {

bool Session::adapt(Span<const ActiveAdapter> adapters, Error& error) {
  const Span<const ActiveAdapter> now = changed_ ? changed_->adapters() : Span<const ActiveAdapter>();
  bool same = now.count == adapters.count;
  for (size_t i = 0; same && i < now.count; ++i) {
    same = now[i].adapter == adapters[i].adapter && now[i].scale == adapters[i].scale;
  }
  if (same) return true;
  Changed* fresh = nullptr;
  if (adapters.count) {
    void* const at = resized(nullptr, sizeof(Changed));
    fresh = at ? new (InPlace{at}) Changed(bundle_) : nullptr;
    if (!fresh || !fresh->open(adapters)) {
      destroy(fresh);
      return Pool::no_memory(error, sizeof(Changed));
    }
  }
  if (!device_.finish(error)) {
    destroy(fresh);
    return false;
  }
  unbind();
  for (u32 i = 0; i < weights_.size(); ++i) {
    if ((changed_ && changed_->has(i)) || (fresh && fresh->has(i))) drop_weight(i);
  }
  destroy(changed_);
  changed_ = fresh;
  return true;
}

bool Session::is_new(u32 index) const {
  if (index < weights_.size() && weights_[index].handle) return false;
  return (changed_ && changed_->has(index)) || (index < holds_.size() && holds_[index] == Holds::changed);
}

// What weights of mapped files that a plan reads will take for themselves.
u64 Session::own_bytes(const Plan& plan) const {
  u64 bytes = 0;
  if (!changed_ || (!maps_weights() && !streaming_.on)) return 0;
  for (const Operand& operand : plan.operands) {
    if (operand.weight == kNone || !changed_->has(static_cast<u32>(operand.weight))) continue;
    if (is_new(static_cast<u32>(operand.weight))) bytes += operand.bytes;
  }
  return bytes;
}

// A weight's buffer, with the values that it is to have.
bool Session::fill(u32 index, Shard& shard, Error& error) {
  const WeightEntry& entry = bundle_.manifest().weights[index];
  const bool changes = changed_ && changed_->has(index), own = changes && !shard.copied;
  Buffer& buffer = weights_[index];
  if (own) {
    char what[600];
    snprintf(what, sizeof what, "%.*s, changed", OD_TEXT(entry.key));
    if (!device_.allocate(entry.bytes, what, buffer, error)) return false;
    weight_bytes_ += entry.bytes;
    holds_[index] = Holds::own;
  } else if (!device_.part(shard.buffer, entry.offset, entry.bytes, buffer, error)) {
    return false;
  }
  if (!changes && holds_[index] == Holds::base) return true;
  if (!own) holds_[index] = Holds::changed;  // whatever is written of it
  List<u8> values;
  Bytes bytes;
  if (changes) {
    if (!changed_->values(index, values, error)) return false;
    bytes = {values.begin(), values.size()};
  } else {
    if (!bundle_.shard(entry.file, bytes, error)) return false;
    bytes = bytes.slice(entry.offset, entry.offset + entry.bytes);
  }
  if (!device_.write(buffer, 0, bytes, error)) return false;
  if (!changes) holds_[index] = Holds::base;
  if (shard.copied || streaming_.on) bundle_.forget(shard.file);
  return true;
}

// Whoever needs it gets it anew.
void Session::drop_weight(u32 index) {
  if (!weights_[index].handle) return;
  device_.release(weights_[index]);
  if (holds_[index] != Holds::own) return;
  weight_bytes_ -= bundle_.manifest().weights[index].bytes;
  holds_[index] = Holds::base;
}

}  // namespace od
