#include "picture/noise.h"

#include <math.h>

namespace od {
namespace {

constexpr double kAlike = 0.9995;  // mean cosine of two noises from which on a plain sum of them is taken
constexpr double kUnit = 0x1p-32;
constexpr double kTurn = static_cast<double>(0x1.921fb6p-30f);  // 2 pi / 2^32 in float32

// From `low` towards `high` on a sphere, each column of a plane by itself, in double and rounded once. Both oddities
// are WebUI's: that vectors are columns, and that noises that are almost alike are summed with their weights exchanged.
void slerp(double strength, Span<const float> high, u32 height, u32 width, Span<float> low) {
  const size_t plane = size_t(height) * width;
  const auto cosine = [&](size_t first) {
    double lows = 0, highs = 0, sum = 0;
    for (u32 y = 0; y < height; ++y) {
      const double a = low[first + y * width], b = high[first + y * width];
      lows += a * a;
      highs += b * b;
    }
    lows = sqrt(lows);
    highs = sqrt(highs);
    for (u32 y = 0; y < height; ++y) sum += low[first + y * width] / lows * (high[first + y * width] / highs);
    return sum;
  };
  double all = 0;
  for (size_t at = 0; at < low.count; at += plane) {
    for (u32 x = 0; x < width; ++x) all += cosine(at + x);
  }
  const bool alike = all / (static_cast<double>(low.count) / height) > kAlike;
  for (size_t at = 0; at < low.count; at += plane) {
    for (u32 x = 0; x < width; ++x) {
      double of_low = strength, of_high = 1 - strength, whole = 1;
      if (!alike) {
        const double angle = acos(cosine(at + x));
        of_low = sin((1 - strength) * angle);
        of_high = sin(strength * angle);
        whole = sin(angle);
      }
      for (u32 y = 0; y < height; ++y) {
        float& value = low[at + x + y * width];
        value = static_cast<float>((of_low * value + of_high * high[at + x + y * width]) / whole);
      }
    }
  }
}

}  // namespace

void Philox::draw(Span<float> out) {
  for (u64 i = 0; i < out.count; ++i) {
    u32 counter[4] = {static_cast<u32>(draws_), static_cast<u32>(draws_ >> 32), static_cast<u32>(i),
                      static_cast<u32>(i >> 32)};
    u32 key[2] = {static_cast<u32>(seed_), static_cast<u32>(seed_ >> 32)};
    for (int round = 0; round < 10; ++round) {
      const u64 p = u64(counter[0]) * 0xD2511F53u, q = u64(counter[2]) * 0xCD9E8D57u;
      counter[0] = static_cast<u32>(q >> 32) ^ counter[1] ^ key[0];
      counter[1] = static_cast<u32>(q);
      counter[2] = static_cast<u32>(p >> 32) ^ counter[3] ^ key[1];
      counter[3] = static_cast<u32>(p);
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
    const double radius = sqrt(-2.0 * ::log(counter[0] * kUnit + kUnit / 2));
    out[i] = static_cast<float>(radius * sin(counter[1] * kTurn + kTurn / 2));
  }
  ++draws_;
}

void Noise::draw(Span<float> out) {
  if (seeds_.mode == SeedMode::torch) {
    mersenne_.draw(out);
  } else {
    philox_.draw(out);
  }
}

bool Noise::initial(Span<float> out, u32 height, u32 width, Error& error) {
  draw(out);
  if (seeds_.variation_strength == 0) return true;
  if (height < 2) {
    return fail(error, Code::usage, "variation_strength", "use 0, or a higher picture",
                "a picture of one row of latents has no variations (got %u, expected 2 or more).", height);
  }
  List<float> high;
  if (!high.resize(out.count)) return Pool::no_memory(error, out.count * sizeof(float));
  Seeds other = seeds_;
  other.seed = seeds_.variation_seed;
  Noise(other).draw(high.span());
  slerp(seeds_.variation_strength, high.span(), height, width, out);
  return true;
}

void Noise::enter_loop() {
  if (!seeds_.delta) return;
  const i64 seed = static_cast<i64>(static_cast<u64>(seeds_.seed) + static_cast<u64>(seeds_.delta));
  mersenne_ = Mersenne(static_cast<u64>(seed));
  philox_ = Philox(static_cast<u64>(seed));
}

}  // namespace od
