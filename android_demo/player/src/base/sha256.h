// SHA-256 (FIPS 180-4), for files of a bundle and keys of compiled kernels.
#pragma once

#include "base/base.h"

namespace od {

class Sha256 {
 public:
  Sha256();
  void add(Bytes data);
  // 64 lower-case hexadecimal digits and a zero.
  void finish(char out[65]);

 private:
  void block(const u8* data);
  u32 state_[8];
  u64 size_ = 0;
  u8 rest_[64];
};

void sha256(Bytes data, char out[65]);

}  // namespace od
