// How the passes of a call become one prediction (docs/pipeline.md, "The loop"): classifier-free guidance and its kin.
#pragma once

#include "base/base.h"
#include "bundle/pipeline.h"
#include "draw/numbers.h"

namespace od {

// All passes, or the one that runs alone where there is no guidance.
Span<Pass> passes_in_use(const Loop& loop, const Numbers& numbers);
// Whether a call takes more than one pass, anywhere on the schedule.
bool is_guided(const Pipeline& pipeline, const Numbers& numbers);
// One run of a loop's roles in a call: a pass, for a part of its text.
struct Spoken {
  u32 pass;      // of those in use
  i32 part;      // kNone: no text
  float weight;  // of the part
  u32 chunks;    // of its text
  Span<i32> zeros;
  size_t slot;  // where its output lies
};

// One prediction of `count` floats from the outputs of all runs, which lie in slots of `outputs` and are named in the
// order of passes; the result is in the first. `scratch`: 2 * count.
void combine(const Loop& loop, const Numbers& numbers, Span<const Spoken> runs, Span<float> outputs, size_t count,
             Span<float> scratch);

}  // namespace od
