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
  if (!loop.guided || numbers.largest(loop.guided_number) > loop.guided_above) return loop.passes;
  return loop.passes.slice(loop.guided_alone, loop.guided_alone + 1);
}

bool is_guided(const Pipeline& pipeline, const Numbers& numbers) {
  for (const Loop& loop : pipeline.denoise) {
    if (passes_in_use(loop, numbers).count > 1) return true;
  }
  return false;
}

void combine(const Loop& loop, const Numbers& numbers, Span<const Spoken> runs, Span<float> outputs, size_t count,
             Span<float> scratch) {
  // One pass that runs alone is the prediction; its text may have more parts than there are passes.
  if (runs[runs.count - 1].pass + 1 < loop.passes.count) return;
  const auto output = [&](const Spoken& run) { return outputs.slice(run.slot * count, (run.slot + 1) * count); };
  const auto first = [&](u32 pass) -> const Spoken& {
    size_t i = 0;
    while (runs[i].pass != pass) ++i;
    return runs[i];
  };
  // Adds what each part of a pass says beside another pass.
  const size_t frame = count / numbers.frames();
  const auto add = [&](Span<float> total, i32 number, u32 plus, u32 minus) {  // kNone: of number 1
    const Span<float> less = output(first(minus));
    for (const Spoken& run : runs) {
      if (run.pass != plus) continue;
      const Span<float> more = output(run);
      for (size_t k = 0; k < numbers.frames(); ++k) {
        const float factor = (number == kNone ? 1.0f : numbers.in_frame(number, static_cast<u32>(k))) * run.weight;
        for (size_t i = k * frame; i < (k + 1) * frame; ++i) total[i] = total[i] + factor * (more[i] - less[i]);
      }
    }
  };
  memcpy(scratch.data, output(first(loop.first)).data, count * sizeof(float));
  for (const Add& one : loop.add) add(scratch, one.number, one.plus, one.minus);
  const float phi = loop.rescale == kNone ? 0.0f : static_cast<float>(numbers[loop.rescale]);
  if (phi != 0 && !loop.add.empty()) {
    const Add& last = loop.add[loop.add.count - 1];
    size_t parts = 0;
    for (const Spoken& run : runs) parts += run.pass == last.plus;
    Span<float> text = output(first(last.plus));
    if (parts > 1) {  // of several parts: what they all say
      const Span<float> base = scratch.slice(count, 2 * count);
      memcpy(base.data, output(first(last.minus)).data, count * sizeof(float));
      add(base, kNone, last.plus, last.minus);
      text = base;
    }
    const Span<float> prediction = scratch.slice(0, count);
    const auto ratio = static_cast<float>(deviation({text.data, count}) / deviation({prediction.data, count}));
    for (size_t i = 0; i < count; ++i) scratch[i] = phi * (scratch[i] * ratio) + (1.0f - phi) * scratch[i];
  }
  memcpy(outputs.data, scratch.data, count * sizeof(float));
}

}  // namespace od
