// What a processor can do, as the system says it.
#pragma once

#include "base/base.h"

namespace od {

// Everything that the processors say of their instructions, in one text that is the same on machines that are alike;
// empty where the system does not say. False where there is no memory for it.
bool cpu_features(List<char>& out);

}  // namespace od
