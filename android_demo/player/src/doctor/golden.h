// Golden files: what launches give, as sums over blocks of elements (docs/doctor.md, "Golden files").
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"

namespace od {

enum class Fill : u8 { none, is_signed, positive };  // none: NaN throughout

// Made-up numbers of a tensor: `seed` is the operand's place among those of its launch.
void fill(Dtype dtype, u64 count, u32 seed, Fill fill, u8* out);

struct GoldenResult {
  u32 operand;  // its place in the dispatch
  u64 block, odd;
  Span<double> sums, slack;
};

struct GoldenLaunch {
  const PlanEntry* plan;
  u32 dispatch;
  Fill fill;
  Span<GoldenResult> results;
};

struct Golden {
  Text target;  // empty: the bundle has plans for one kind of devices
  Span<GoldenLaunch> launches;
};

// Every value checked but those that only plans show. `digest` is of the bundle's manifest. Code::usage.
bool parse_golden(Bytes data, Text name, const Manifest& manifest, Text digest, Pool& pool, Golden& out, Error& error);

// Compare a result with its sums: false with what is wrong in `why`.
bool compare(const GoldenResult& expected, Dtype dtype, u64 count, const u8* data, char* why, size_t room);

}  // namespace od
