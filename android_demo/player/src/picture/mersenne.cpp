#include "picture/mersenne.h"

#include <math.h>
#include <string.h>

namespace od {
namespace {

constexpr size_t kRun = 16;  // numbers that Box-Muller makes at once, in long draws
constexpr u32 kWords = 624;

// Polynomials after their first coefficients, and pi / 4 in three parts.
constexpr float kLog[] = {-0.1151461031f,  0.1167699874f,  -0.12420140846f, 0.14249322787f,
                          -0.16668057665f, 0.20000714765f, -0.24999993993f, 0.33333331174f};
constexpr float kQuarterPi[] = {-0.78515625f, -0.00024187564849853515625f, -0.0000000377489497744594108f};
constexpr float kSine[] = {0.0083321608736f, -0.16666654611f};
constexpr float kCosine[] = {-0.001388731625493765f, 0.04166664568298827f};

float log_of(float x) {
  u32 bits;
  memcpy(&bits, &x, sizeof bits);
  auto e = static_cast<float>(static_cast<i32>(bits >> 23) - 126);
  bits = (bits & 0x007fffff) | 0x3f000000;
  memcpy(&x, &bits, sizeof x);
  if (x < 0.70710677f) {
    e = e - 1.0f;
    x = (x - 1.0f) + x;
  } else {
    x = x - 1.0f;
  }
  const float z = x * x;
  float y = 0.070376836292f;
  for (const float c : kLog) y = fmaf(y, x, c);
  y = y * x;
  y = fmaf(y, z, e * -0.000212194440f);
  y = fmaf(-z, 0.5f, y);
  return fmaf(e, 0.693359375f, x + y);
}

void sine_and_cosine(float x, float& sine, float& cosine) {
  auto j = static_cast<i32>(x * 1.27323954473516f);
  j += j & 1;
  const auto y = static_cast<float>(j);
  for (const float p : kQuarterPi) x = fmaf(y, p, x);
  const float z = x * x;
  float c = 0.00002443315711809948f;
  for (const float k : kCosine) c = fmaf(c, z, k);
  c = fmaf(c * z, z, -(z * 0.5f)) + 1.0f;
  float s = -0.00019515295891f;
  for (const float k : kSine) s = fmaf(s, z, k);
  s = fmaf(s * z, x, x);
  const bool exchanged = j & 2;
  sine = exchanged ? c : s;
  cosine = exchanged ? s : c;
  if (j & 4) sine = -sine;
  if (j == 2 || j == 4) cosine = -cosine;
}

// 16 numbers of 0..1 -> 16 normal numbers, in place.
void box_muller(float* run) {
  for (size_t i = 0; i < kRun / 2; ++i) {
    const float radius = sqrtf(-2.0f * log_of(1.0f - run[i]));
    float sine, cosine;
    sine_and_cosine(6.2831855f * run[i + kRun / 2], sine, cosine);
    run[i] = radius * cosine;
    run[i + kRun / 2] = radius * sine;
  }
}

float of_24_bits(u32 word) { return static_cast<float>(word & 0xffffff) * 0x1p-24f; }

double of_53_bits(u32 high, u32 low) {
  return static_cast<double>((u64(high) << 32 | low) & ((u64(1) << 53) - 1)) * 0x1p-53;
}

}  // namespace

Mersenne::Mersenne(u64 seed) {
  state_[0] = static_cast<u32>(seed);
  for (u32 i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

u32 Mersenne::word() {
  if (at_ == kWords) {
    for (u32 i = 0; i < kWords; ++i) {
      const u32 y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
      state_[i] = state_[(i + 397) % kWords] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    at_ = 0;
  }
  u32 y = state_[at_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

void Mersenne::draw(Span<float> out) {
  if (out.count >= kRun) {
    for (float& value : out) value = of_24_bits(word());
    for (size_t i = 0; i + kRun <= out.count; i += kRun) box_muller(out.data + i);
    if (out.count % kRun) {  // sixteen fresh words over the end, part of the last whole run included
      float* last = out.end() - kRun;
      for (size_t i = 0; i < kRun; ++i) last[i] = of_24_bits(word());
      box_muller(last);
    }
    return;
  }
  for (float& value : out) {
    if (keeps_) {
      value = static_cast<float>(kept_);
      keeps_ = false;
      continue;
    }
    const u32 a = word(), b = word(), c = word(), d = word();
    const double radius = sqrt(-2.0 * log1p(-of_53_bits(c, d)));
    const double angle = 2.0 * 3.14159265358979323846 * of_53_bits(a, b);
    value = static_cast<float>(radius * cos(angle));
    kept_ = radius * sin(angle);
    keeps_ = true;
  }
}

}  // namespace od
