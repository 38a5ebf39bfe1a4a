// IEEE 754 binary16.
#pragma once

#include "base/base.h"

namespace od {

float from_half(u16 half);
u16 to_half(float value);  // to the nearest, halves to even

}  // namespace od
