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
// One prediction of `count` floats from the outputs of all passes in use, which lie one after another in `outputs`; the
// result is in their first part.
void combine(const Loop& loop, const Numbers& numbers, Span<float> outputs, size_t count, Span<float> scratch);

}  // namespace od
