// The numbers of torch.randn with a CPU generator, bit for bit (docs/noise.md).
#pragma once

#include "base/base.h"

namespace od {

class Mersenne {
 public:
  // The low 32 bits of a seed count.
  explicit Mersenne(u64 seed);
  // One draw; it fills `out` in order.
  void draw(Span<float> out);

 private:
  u32 word();
  u32 state_[624];
  u32 at_ = 624;
  bool keeps_ = false;
  double kept_ = 0;
};

}  // namespace od
