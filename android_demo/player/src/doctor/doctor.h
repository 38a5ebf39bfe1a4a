// Whether a device computes a bundle's launches as the device did that a golden file was made on (docs/doctor.md).
#pragma once

#include "base/base.h"
#include "base/json_writer.h"
#include "bundle/bundle.h"
#include "device/device.h"

namespace od {

struct DoctorWatch {
  void* user = nullptr;
  void (*progress)(void* user, u32 done, u32 launches) = nullptr;  // may be null
  volatile const bool* cancel = nullptr;                           // may be null
};

struct DoctorCounts {
  u32 launches = 0, wrong = 0, refused = 0;
};

// Run every launch of a golden file (its text; `name` is for errors) by itself, and write what is not right as JSON:
// the device, how many launches there are, and a row for each that is wrong or that the driver refused. Chooses the
// plans that the file is of. Code::usage where the file is damaged or another bundle's; Code::device where the device
// has not what a plan needs; Code::cancelled.
bool doctor(Bundle& bundle, Device& device, Bytes golden, Text name, const DoctorWatch& watch, JsonWriter& out,
            DoctorCounts& counts, Error& error);

}  // namespace od
