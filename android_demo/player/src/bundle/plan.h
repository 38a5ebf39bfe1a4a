// A plan as data (docs/bundle.md, "Plans"): a component at fixed sizes, a list of dispatches. All of it was checked.
#pragma once

#include "base/base.h"
#include "base/json.h"
#include "bundle/manifest.h"

namespace od {

struct Operand {
  Text name;
  Dtype dtype;
  Shape shape;
  u64 bytes;
  u64 offset;                 // in the arena, where it is neither a weight nor an image
  i32 weight = kNone;         // index into Manifest::weights
  i32 view = kNone;           // the operand whose bytes an image reads
  u32 width = 0, height = 0;  // texels of the image

  bool in_arena() const { return weight == kNone && view == kNone; }
};

struct Define {
  Text name;
  i32 value;
};

struct PlanKernel {
  u32 file;              // index into Manifest::kernels
  Span<Define> defines;  // sorted by name
  u32 inputs, outputs;
  Text scalars;  // letters i and f
};

union Scalar {
  i32 i;
  float f;
};

struct Dispatch {
  u32 kernel;
  Span<u32> operands;  // the kernel's inputs, then its outputs
  Span<Scalar> scalars;
  u32 grid[3], group[3];
  Text node, op;
  u64 flops, reads, writes;
};

struct Plan {
  u32 component;
  Sizes sizes;
  Dtype dtype;
  u64 arena, weight_bytes;
  u32 needs;  // Need
  Span<u32> inputs, outputs;
  Span<PlanKernel> kernels;
  Span<Operand> operands;
  Span<Dispatch> dispatches;

  i32 input(Text name) const;  // index into `operands`, kNone where there is none
  i32 output(Text name) const;
};

// Check one plan against its entry in the manifest, all of docs/bundle.md ("What a reader checks, beyond types and
// limits") and its targets. Ports are `check_ports`' business. Code::bundle.
bool parse_plan(const Json& value, Text file, Pool& pool, const Manifest& manifest, const PlanEntry& entry, Plan& out,
                Error& error);

}  // namespace od
