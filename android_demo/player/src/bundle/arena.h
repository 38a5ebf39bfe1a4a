// What a plan's dispatches do with its arena (docs/bundle.md, "What a reader checks, beyond types and limits").
#pragma once

#include "bundle/checker.h"
#include "bundle/plan.h"

namespace od {

// Refuse an image that is written, and a program that takes an image where another dispatch of it takes a buffer.
bool check_images(const Checker& check, const Plan& plan);

// Refuse a plan that reads what nothing wrote, writes weights or what it also reads, or lets two operands that are
// needed at the same time share bytes of the arena. O(n log n) of its operands and dispatches.
bool check_arena(const Checker& check, const Plan& plan, const Manifest& manifest);

}  // namespace od
