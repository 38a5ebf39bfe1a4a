#include "draw/guidance.h"

#include <math.h>
#include <string.h>

namespace od {
namespace {

// Of all elements, with n - 1 in the denominator, in double precision.
double deviation(Span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value);
  const double mean = sum / static_cast<double>(values.count);
  double squares = 0;
  for (const float value : values) {
    const double off = static_cast<double>(value) - mean;
    squares += off * off;
  }
  return sqrt(squares / static_cast<double>(values.count - 1));
}

}  // namespace

Span<Pass> passes_in_use(const Loop& loop, const Numbers& numbers) {
  if (!loop.guided || numbers[loop.guided_number] > loop.guided_above) return loop.passes;
  return loop.passes.slice(loop.guided_alone, loop.guided_alone + 1);
}

bool is_guided(const Pipeline& pipeline, const Numbers& numbers) {
  for (const Loop& loop : pipeline.denoise) {
    if (passes_in_use(loop, numbers).count > 1) return true;
  }
  return false;
}

void combine(const Loop& loop, const Numbers& numbers, Span<float> outputs, size_t count, Span<float> scratch) {
  if (outputs.count != loop.passes.count * count) return;  // one pass that runs alone is the prediction
  const auto pass = [&](u32 index) { return outputs.slice(index * count, (index + 1) * count); };
  memcpy(scratch.data, pass(loop.first).data, count * sizeof(float));
  for (const Add& add : loop.add) {
    const auto number = static_cast<float>(numbers[add.number]);
    const Span<float> plus = pass(add.plus), minus = pass(add.minus);
    for (size_t i = 0; i < count; ++i) scratch[i] = scratch[i] + number * (plus[i] - minus[i]);
  }
  const float phi = loop.rescale == kNone ? 0.0f : static_cast<float>(numbers[loop.rescale]);
  if (phi != 0 && !loop.add.empty()) {
    const Span<float> text = pass(loop.add[loop.add.count - 1].plus);
    const auto ratio = static_cast<float>(deviation({text.data, count}) / deviation({scratch.data, count}));
    for (size_t i = 0; i < count; ++i) scratch[i] = phi * (scratch[i] * ratio) + (1.0f - phi) * scratch[i];
  }
  memcpy(outputs.data, scratch.data, count * sizeof(float));
}

}  // namespace od
