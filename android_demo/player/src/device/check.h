// Looks for NaN and infinity after every dispatch and names the first that made one: the answer to black pictures.
#pragma once

#include "bundle/plan.h"

namespace od {

// For each dispatch a bit for each of its outputs that is whole once it has run: the next to use it, if any, reads it.
bool whole_results(const Plan& plan, Pool& pool, Span<u64>& out, Error& error);

// Values of an operand as they are now.
using ReadOperand = bool (*)(void* user, u32 operand, List<u8>& out, Error& error);

// Check what dispatch `number` wrote of `whole`. Infinity is let through where an input already held it: masks are
// -inf. Code::numeric, naming component, node, op, kernel, tensor, and the ranges of what went in and came out.
bool check_results(const Plan& plan, u32 number, u64 whole, const Manifest& manifest, ReadOperand read, void* user,
                   Error& error);

}  // namespace od
