// Whether plans take and make what the pipeline passes and expects (docs/pipeline.md, "Ports").
#pragma once

#include "base/base.h"
#include "bundle/plan.h"

namespace od {

// Types of values that only plans say, as those that were read have them.
struct Seen {
  struct Row {
    i32 value;
    Sizes sizes;
    Dtype dtype;
    Shape shape;  // in one pass
  };
  List<Row> rows;
};

// Refuse a plan of a component that the pipeline runs with other inputs or outputs. Adds to `seen`. Code::bundle.
bool check_ports(const Plan& plan, Text file, const Manifest& manifest, Seen& seen, Error& error);

// Refuse stages of a decoder in bands (docs/bundle.md) that do not fit each other. `plans` in order. Code::bundle.
bool check_stages(Span<const Plan* const> plans, const Manifest& manifest, Error& error);

// "mean" and "variance" inputs of stages: the picture's name without the ending; `mean` says which. False of a picture.
bool is_statistics(Text name, Text& picture, bool& mean);

}  // namespace od
