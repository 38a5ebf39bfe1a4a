#include "draw/numbers.h"

#include <math.h>

namespace od {

bool Numbers::resolve(const Pipeline& pipeline, Span<const NamedNumber> given, u32 width, u32 height, Error& error) {
  pipeline_ = &pipeline;
  width_ = width;
  height_ = height;
  const size_t count = pipeline.numbers.count;
  if (!chosen_.resize(count) || !now_.resize(count)) return Pool::no_memory(error, count * sizeof(double));
  for (const NamedNumber& one : given) {
    if (pipeline.number(one.name) == kNone) {
      return fail(error, Code::usage, one.name, "leave it out", "this model has no such number.");
    }
    if (!isfinite(one.value)) {
      return fail(error, Code::usage, one.name, "use 7.5", "not a number (expected a finite one).");
    }
  }
  // A default may be another number's name; names make no circle, so each round settles one more at least.
  List<bool> settled;
  if (!settled.resize(count)) return Pool::no_memory(error, count);
  for (size_t round = 0; round <= count; ++round) {
    for (size_t i = 0; i < count; ++i) {
      const Number& number = pipeline.numbers[i];
      if (settled[i] || !number.has_default) continue;
      double value = 0;
      bool found = false;
      for (const NamedNumber& one : given) {
        if (one.name == number.name) {
          value = one.value;
          found = true;
        }
      }
      if (!found) {
        const i32 other = number.usual.number;
        if (other >= 0 && !settled[static_cast<size_t>(other)]) continue;
        value = other >= 0 ? chosen_[static_cast<size_t>(other)] : of(number.usual);
      }
      if (!(value >= number.low && value <= number.high)) {
        return fail(error, Code::usage, number.name, "choose another", "out of range (got %g, expected %g to %g).",
                    value, number.low, number.high);
      }
      chosen_[i] = value;
      settled[i] = true;
    }
  }
  leave();
  return true;
}

void Numbers::leave() {
  for (size_t i = 0; i < now_.size(); ++i) now_[i] = chosen_[i];
}

void Numbers::enter(u32 call, u32 calls) {
  for (size_t i = 0; i < now_.size(); ++i) {
    const Number& number = pipeline_->numbers[i];
    if (number.window_from == kNone) continue;
    const double from = chosen_[static_cast<size_t>(number.window_from)];
    const double until = chosen_[static_cast<size_t>(number.window_until)];
    const bool inside = double(call) / calls >= from && double(call + 1) / calls <= until;
    now_[i] = inside ? chosen_[i] : 0;
  }
}

double Numbers::of(const Amount& amount) const {
  switch (amount.number) {
    case kNone:
      return amount.constant;
    case kWidth:
      return width_;
    case kHeight:
      return height_;
    default:
      return now_[static_cast<size_t>(amount.number)];
  }
}

}  // namespace od
