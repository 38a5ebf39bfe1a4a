// Stored weights with adapters in them (docs/adapters.md, "What a switch does").
#pragma once

#include "adapt/expression.h"
#include "bundle/bundle.h"

namespace od {

// An adapter of the bundle, and how much of it.
struct ActiveAdapter {
  u32 adapter;  // index into Manifest::adapters
  double scale;
};

class Changed {
 public:
  explicit Changed(Bundle& bundle) : bundle_(bundle) {}

  // Finds which weights these change; they add up in this order. Whether there was memory.
  bool open(Span<const ActiveAdapter> adapters);
  Span<const ActiveAdapter> adapters() const { return adapters_.span(); }
  bool has(u32 weight) const { return has_[weight]; }
  // A weight's new bytes, from those that the bundle holds. Code::numeric where they are not finite, or too large for
  // its type.
  bool values(u32 weight, List<u8>& out, Error& error);
  // Bytes that this takes at most for one weight, beside the result.
  u64 temporary() const { return temporary_; }

 private:
  bool reads_changed(const Made& made) const;
  bool delta(const Made& leaf, List<float>& out, Error& error);
  Leaves leaves();
  bool factor(u32 weight, Pool& pool, Span<float>& out, Error& error);
  bool floats(u32 weight, List<float>& out, Error& error);
  bool bytes(u32 weight, Bytes& out, Error& error);
  bool sum(const Made& step, const WeightEntry& weight, Error& error);
  bool store(const WeightEntry& weight, const List<float>& values, List<u8>& out, Error& error);

  Bundle& bundle_;
  List<ActiveAdapter> adapters_;
  List<bool> has_;
  u64 temporary_ = 0;
  const Made* summed_by_ = nullptr;  // what is summed, as the weight has it that is asked for next
  List<float> summed_;
};

}  // namespace od
