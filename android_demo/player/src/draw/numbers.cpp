#include "draw/numbers.h"

#include <math.h>

namespace od {
namespace {

constexpr u32 kMaxFrames = 1 << 16;

}  // namespace

bool Numbers::resolve(const Pipeline& pipeline, Span<const NamedNumber> given, u32 width, u32 height, bool masked,
                      Error& error) {
  pipeline_ = &pipeline;
  width_ = width;
  height_ = height;
  const size_t count = pipeline.numbers.count;
  if (!chosen_.resize(count) || !now_.resize(count)) return Pool::no_memory(error, count * sizeof(double));
  for (const NamedNumber& one : given) {
    const i32 index = pipeline.number(one.name);
    if (index == kNone || !pipeline.numbers[static_cast<size_t>(index)].has_default) {
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
        if (masked && static_cast<i32>(i) == pipeline.latents.strength) value = pipeline.latents.mask_strength;
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
  if (pipeline.latents.frames == kNone) return true;
  const double frames = (*this)[pipeline.latents.frames];
  frames_ = frames >= 1 && frames <= kMaxFrames ? static_cast<u32>(frames) : 0;
  return frames_ == frames ||
         fail(error, Code::usage, pipeline.numbers[static_cast<size_t>(pipeline.latents.frames)].name, "use 14",
              "not a number of frames (got %g, expected a whole one).", frames);
}

float Numbers::in_frame(i32 number, u32 frame) const {
  const Number& ramp = pipeline_->numbers[static_cast<size_t>(number)];
  if (ramp.ramp_from == kNone) return static_cast<float>((*this)[number]);
  const double first = (*this)[ramp.ramp_from], last = (*this)[ramp.ramp_until];
  const double step = frames_ > 1 ? (last - first) / (frames_ - 1) : 0;
  return static_cast<float>(first + frame * step);
}

double Numbers::largest(i32 number) const {
  const Number& ramp = pipeline_->numbers[static_cast<size_t>(number)];
  if (ramp.ramp_from == kNone) return (*this)[number];
  return static_cast<double>(max(in_frame(number, 0), in_frame(number, frames_ - 1)));
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
