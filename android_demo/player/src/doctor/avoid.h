// Programs that a device computes wrongly, as `ondevice doctor --out FILE` lists them (docs/doctor.md).
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "device/device.h"

namespace od {

struct AvoidedProgram {
  Text kernel, sha256;  // of the kernel's text
  Span<Define> defines;
};

struct AvoidList {
  Text device;
  Span<AvoidedProgram> programs;
};

// Every value checked; `name` is the file's. What is found lives in `pool`. Code::usage.
bool parse_avoid(Bytes data, Text name, Pool& pool, AvoidList& out, Error& error);

// Keep the bundle's chosen target if none of its plans has a program of the list; where `any_target`, else take the
// first other target whose plans the device can run and that has none either. Where the list is of another device,
// nothing is asked. Code::device, naming the first such program.
bool choose_without(Bundle& bundle, const Facts& device, const AvoidList& list, bool any_target, Error& error);

}  // namespace od
