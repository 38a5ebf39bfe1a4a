// Plans of one bundle for several GPUs (docs/bundle.md, "Several GPUs"): what their targets say.
#pragma once

#include "bundle/checker.h"
#include "bundle/plan.h"

namespace od {

// The manifest's `targets`.
bool parse_targets(const Checker& check, const Json& rows, Pool& pool, Span<TargetEntry>& out);

// Whether a device can run a target's plans.
bool can_run(const TargetEntry& target, const DeviceLimits& device);

// Refuse a plan that takes more of a device than the targets say that it serves (a bit each).
bool check_serves(const Plan& plan, Text file, const Manifest& manifest, u64 served, Error& error);

}  // namespace od
