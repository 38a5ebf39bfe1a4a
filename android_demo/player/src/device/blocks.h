// Weights a block at a time (docs/memory.md, "Streamed weights"): which dispatches read them together, where they lie in
// a window of memory, and when they may be loaded. The rules are those of ondevice/plan/blocks.py.
#pragma once

#include "adapt/changed.h"
#include "base/base.h"
#include "bundle/plan.h"

namespace od {

// How weights are streamed.
struct Streaming {
  bool on = false;
  u64 bytes = 0;        // of the window at most; 0: as many as blocks of the usual size take
  bool mapped = false;  // read where their files are mapped; else copied into a buffer

  bool operator==(const Streaming& other) const {
    return on == other.on && bytes == other.bytes && mapped == other.mapped;
  }
};

// A weight in the window: bytes are whole units of kUnit.
struct Placed {
  u32 weight;
  u64 place, bytes;
};

// Dispatches `first` to `end`, what they read, and how many blocks must be done before it is loaded.
struct Block {
  u32 first, end, after;
  u64 bytes;
  Span<Placed> weights;
};

struct Window {
  u64 bytes = 0, most = 0;  // its size, and the most of it that holds weights at a time
  Span<Block> blocks;
};

// The window of a plan's weights, without those `held` that have memory of their own; may be null. Code::device where
// it is too small for what one dispatch reads.
bool window_of(const Plan& plan, Text component, const Streaming& how, const Changed* held, Pool& pool, Window& out,
               Error& error);

}  // namespace od
