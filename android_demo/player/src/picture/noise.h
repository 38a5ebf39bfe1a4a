// The normal numbers that a picture is drawn from, by its seed (docs/noise.md).
#pragma once

#include "base/base.h"
#include "picture/mersenne.h"

namespace od {

// Whose numbers a seed gives: diffusers' with a CPU generator, those with a CUDA one, or WebUI's on such a device.
enum class SeedMode : u8 { torch, cuda, a1111 };
constexpr const char* kSeedModes[] = {"torch", "cuda", "a1111"};

struct Seeds {
  i64 seed = 0;
  SeedMode mode = SeedMode::torch;
  // The initial noise is turned towards that of another seed, by 0 to 1 of the way; 0: it is not.
  i64 variation_seed = 0;
  double variation_strength = 0;
  i64 delta = 0;  // draws of the loop come from a stream of their own, of seed + delta; 0: they go on
};

// Philox4x32-10, as a CUDA device with a thread for each number of a draw has it.
class Philox {
 public:
  explicit Philox(u64 seed) : seed_(seed) {}
  void draw(Span<float> out);

 private:
  u64 seed_, draws_ = 0;
};

// All the draws of one picture, in their order.
class Noise {
 public:
  explicit Noise(const Seeds& seeds)
      : seeds_(seeds), mersenne_(static_cast<u64>(seeds.seed)), philox_(static_cast<u64>(seeds.seed)) {}

  // The next draw; it fills `out` in order.
  void draw(Span<float> out);
  // The next draw, of planes of `height` rows of `width` numbers, turned towards the variation's first. Code::usage for
  // planes of one row, where there is one.
  bool initial(Span<float> out, u32 height, u32 width, Error& error);
  // What is drawn from here on is the loop's.
  void enter_loop();
  // Whether an encoder's latents are drawn, and not their mean.
  bool draws_encodings() const { return seeds_.mode != SeedMode::a1111; }

 private:
  const Seeds seeds_;
  Mersenne mersenne_;
  Philox philox_;
};

}  // namespace od
