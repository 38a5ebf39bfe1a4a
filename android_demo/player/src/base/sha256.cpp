#include "base/sha256.h"

#include <string.h>

namespace od {
namespace {

constexpr u32 kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

u32 rotated(u32 x, int by) { return x >> by | x << (32 - by); }

}  // namespace

Sha256::Sha256()
    : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::block(const u8* data) {
  u32 w[64];
  for (int i = 0; i < 16; ++i) {
    w[i] = u32(data[4 * i]) << 24 | u32(data[4 * i + 1]) << 16 | u32(data[4 * i + 2]) << 8 | data[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const u32 a = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
    const u32 b = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  // Eight rounds at a time, after which each word of the state is in its own place again: nothing is moved.
  u32 a = state_[0], b = state_[1], c = state_[2], d = state_[3];
  u32 e = state_[4], f = state_[5], g = state_[6], h = state_[7];
  const auto round = [&w](u32 p, u32 q, u32 r, u32& s, u32 t, u32 u, u32 v, u32& x, int i) {
    const u32 high = rotated(t, 6) ^ rotated(t, 11) ^ rotated(t, 25);
    const u32 first = x + high + (v ^ (t & (u ^ v))) + kRounds[i] + w[i];
    const u32 low = rotated(p, 2) ^ rotated(p, 13) ^ rotated(p, 22);
    s += first;
    x = first + low + ((p & q) | (r & (p | q)));
  };
  for (int i = 0; i < 64; i += 8) {
    round(a, b, c, d, e, f, g, h, i);
    round(h, a, b, c, d, e, f, g, i + 1);
    round(g, h, a, b, c, d, e, f, i + 2);
    round(f, g, h, a, b, c, d, e, i + 3);
    round(e, f, g, h, a, b, c, d, i + 4);
    round(d, e, f, g, h, a, b, c, i + 5);
    round(c, d, e, f, g, h, a, b, i + 6);
    round(b, c, d, e, f, g, h, a, i + 7);
  }
  const u32 added[8] = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) state_[i] += added[i];
}

void Sha256::add(Bytes data) {
  if (data.empty()) return;  // and may have no place
  size_t filled = size_ % 64;
  size_ += data.count;
  const u8* at = data.data;
  size_t left = data.count;
  if (filled) {
    const size_t taken = min(left, 64 - filled);
    memcpy(rest_ + filled, at, taken);
    at += taken;
    left -= taken;
    if (filled + taken < 64) return;
    block(rest_);
  }
  for (; left >= 64; at += 64, left -= 64) block(at);
  if (left) memcpy(rest_, at, left);
}

void Sha256::finish(char out[65]) {
  const u64 bits = size_ * 8;
  const u8 one = 0x80, zero = 0;
  add({&one, 1});
  while (size_ % 64 != 56) add({&zero, 1});
  u8 length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<u8>(bits >> (56 - 8 * i));
  add({length, 8});
  for (int i = 0; i < 32; ++i) {
    const u32 byte = state_[i / 4] >> (24 - 8 * (i % 4)) & 255;
    out[2 * i] = "0123456789abcdef"[byte >> 4];
    out[2 * i + 1] = "0123456789abcdef"[byte & 15];
  }
  out[64] = 0;
}

void sha256(Bytes data, char out[65]) {
  Sha256 hash;
  hash.add(data);
  hash.finish(out);
}

}  // namespace od
