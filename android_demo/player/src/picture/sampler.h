// Samplers as tables (docs/samplers.md): read, checked and replayed in float32, each operation rounded by itself.
#pragma once

#include "base/base.h"
#include "base/json.h"

namespace od {

struct Term {
  i32 source;  // a slot, -1 the model's output, -2 the draw
  float weight;
};

struct Row {
  u32 slot;
  Span<Term> terms;
};

struct Call {
  double timestep;
  float input_scale;
  u32 sample;
  bool draws_noise;
  Span<Row> rows;
};

struct SamplerTable {
  Text sampler;
  u32 steps, slots, result;
  float start_image, start_noise;
  Span<Call> calls;
  struct Begin {
    float image, noise;
  };
  Span<Begin> begins;  // empty, or one for each call
  Span<Begin> noised;  // the same where each call leads; empty in tables of older bundles
  u32 train_steps;     // timesteps of the training schedule; 0 in tables of older bundles
};

// Code::bundle with the field that is wrong, naming `where`.
bool parse_sampler(const Json& value, Text where, Pool& pool, SamplerTable& out, Error& error);

// The first call that is made where a run begins from a picture. Code::usage where the table cannot.
bool first_call(const SamplerTable& table, double strength, bool rounds_up, u32& call, Error& error);

// The calls of a part of the schedule (docs/samplers.md, "A schedule in two parts"), parts 0 for none: `first` on, as
// it stands or from where the part starts, to before `end`. Code::usage where there are none, or the table cannot.
bool cut_schedule(const SamplerTable& table, double part_start, double part_end, u32& first, u32& end, Error& error);

// The slots of a run, `count` floats each.
class Sampling {
 public:
  // `image` null: from noise alone. `first`: the call that is made first.
  // `as_it_is`: the noise is what another run left.
  bool begin(const SamplerTable& table, u32 first, Span<const float> noise, const float* image, bool as_it_is,
             Error& error);
  // What the network gets in a call: input_scale * slot.
  void input(u32 call, Span<float> out) const;
  // Take the network's output and, where the call draws, the draw.
  void step(u32 call, Span<const float> output, const float* draw);
  // Put a picture's latents back outside of a mask, as noisy as the next call takes them; all of the sample's size.
  void put_back(u32 call, Span<const float> mask, Span<const float> clean, Span<const float> noise);
  // The sample as it stands after a call: of the next call's slot, or the result.
  Span<const float> sample(u32 next_call) const;
  Span<const float> result() const;

 private:
  const SamplerTable* table_ = nullptr;
  size_t count_ = 0;
  List<float> slots_, row_;
};

}  // namespace od
