#include "base/half.h"

#include <math.h>
#include <string.h>

namespace od {

float from_half(u16 half) {
  const u32 sign = u32(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
  float value;
  if (exponent == 0) {
    value = ldexpf(static_cast<float>(fraction), -24);
    return sign ? -value : value;
  }
  const u32 bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}

u16 to_half(float value) {
  u32 bits;
  memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<u16>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;   // NaN
  if (bits >= 0x477ff000) return sign | 0x7c00;  // beyond the largest half
  if (bits < 0x38800000) {                       // a multiple of 2^-24
    return static_cast<u16>(sign | static_cast<u16>(rintf(ldexpf(fabsf(value), 24))));
  }
  const u32 rounded = bits - 0x38000000 + 0xfff + (bits >> 13 & 1);
  return static_cast<u16>(sign | rounded >> 13);
}

}  // namespace od
