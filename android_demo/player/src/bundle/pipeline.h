// A picture as data (docs/pipeline.md): how a bundle's plans, tokenizers and tables are joined. All of it was checked.
//
// Names are resolved to indices when the bundle is read, so that what replays it compares no texts.
#pragma once

#include "base/base.h"
#include "base/json.h"

namespace od {

struct Manifest;

constexpr i32 kNone = -1;
constexpr size_t kMaxFeeds = 64;  // ports of a role, as many that are fed as that are kept

// How often a value changes, from never to always.
enum class Rate : u8 { bundle, picture, text, call };

// A constant, or a number by index; of `width` and `height` kWidth and kHeight.
constexpr i32 kWidth = -2, kHeight = -3;
struct Amount {
  i32 number = kNone;
  double constant = 0;
};

struct Number {
  Text name;
  bool has_default = false;
  Amount usual;
  double low, high;                               // both included; of float32 where nothing is said
  i32 window_from = kNone, window_until = kNone;  // numbers
  i32 ramp_from = kNone, ramp_until = kNone;
};

struct NamedText {
  Text name;
  bool optional;
};

enum class Prepare : u8 { fit, mask, masked, clip_vision, edges, unit };

struct Given {
  Text name;
  Prepare prepare;
  bool optional;
  i32 of[2] = {kNone, kNone};  // pictures that it is made of: one and its mask, or one alone; none: it is given itself
};

// A value's name, and how often it changes. Value 0 is `latents`, value 1 `timestep`.
constexpr i32 kLatents = 0, kTimestep = 1;
struct ValueEntry {
  Text name;
  Rate rate;
  bool optional;  // not made where an optional picture is missing
};

struct Feed {
  enum class Kind : u8 { value, tokens, picture, numbers };

  Text port;
  Kind kind;
  i32 index = kNone;  // of the value, the tokenizer or the picture
  bool absent_zeros = false;
  bool noisy = false;  // of a picture
  Amount noise;
  struct PerText {
    bool same = true;      // for all texts: the first of `amounts`
    Span<Amount> amounts;  // else by text
  };
  Span<PerText> numbers;
};

struct Keep {
  Text port;
  i32 value;
};

struct Role {
  u32 component;  // index into the manifest's
  Rate every;     // of a role in the loop Rate::call; `chunk` is said by `chunks`
  bool chunks = false;
  Span<Feed> feeds;
  Span<Keep> keeps;
};

struct Step {
  enum class Kind : u8 { run, sample, noise };

  Kind kind;
  Role role;                          // run
  i32 moments = kNone, keep = kNone;  // sample: values
  bool draw = false, scaled = false;
  i32 below = kNone;  // of a role or sample: it is done where this number is below the limit
  double limit = 0;
};

struct Pass {
  i32 text = kNone;
  Span<i32> zeros;  // values
};

struct Add {
  i32 number;
  u32 plus, minus;  // passes
};

struct Loop {
  Amount from, until;
  Span<Role> roles;
  i32 prediction;  // value
  Span<Pass> passes;
  u32 first = 0;
  Span<Add> add;
  bool guided = false;
  i32 guided_number = kNone;
  double guided_above = 0;
  u32 guided_alone = 0;
  i32 rescale = kNone;  // number
};

struct Latents {
  u32 channels, scale;
  double scaling, shift;
  i32 frames = kNone, begin = kNone, strength = kNone;  // number, value, number
  Span<double> preview;  // [channels + 1, 3]: factors of each channel, then constants; empty: not known
  i32 mask = kNone;      // picture: where it is given, a part of a picture is drawn anew
  double mask_strength = 0;
  bool rounds_up = false;  // the calls that a strength leaves, to a whole number
};

// Pixels outside of `mask` are those of `picture`; kNone: neither is there.
struct Outside {
  i32 picture = kNone, mask = kNone;
};

struct Pipeline {
  bool frames = false;  // it gives frames, not a picture
  i32 gives = kNone;    // value
  Span<Number> numbers;
  Span<NamedText> texts;
  Span<Given> pictures;
  Span<ValueEntry> values;
  Latents latents;
  Outside outside;
  Text sampler;
  u32 steps;
  Span<Step> before;
  Span<Loop> denoise;
  Span<Role> after;
  Span<Role> fast;  // what may run in the place of `after`; empty: nothing

  i32 number(Text name) const;
  i32 text(Text name) const;
  i32 picture(Text name) const;
};

// Of a manifest whose components, tokenizers and samplers are there already. Code::bundle with the field that is wrong.
bool parse_pipeline(const Json& value, Pool& pool, const Manifest& manifest, Pipeline& out, Error& error);

}  // namespace od
