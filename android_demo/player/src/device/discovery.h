// Which OpenCL devices there are, why some are not used, and which one a user means.
#pragma once

#include "base/base.h"
#include "device/device.h"

namespace od {

struct FoundDevice {
  cl_device_id device;
  Facts facts;
};

// Devices, best first: GPU, the CPU runtime of the package's extra `cpu`, other CPUs, the rest. `remarks`: drivers that
// have none, in one line.
bool discover(const OpenCL& cl, List<FoundDevice>& out, char* remarks, size_t room, Error& error);

// Fill `refused` of its facts where it cannot be used. The answer needs a build, which `cache` remembers.
void examine(const OpenCL& cl, KernelCache& cache, FoundDevice& device);

// The device that `spec`, or else the variable ONDEVICE_DEVICE, asks for, or the best one. Code::no_device.
bool find_device(const OpenCL& cl, const char* spec, KernelCache& cache, FoundDevice& out, Error& error);

// The key of a program on a device: its text, options, and everything about the device that a compiled kernel depends
// on. Of a CPU that is more than its name: two of one name may have other instructions.
bool program_key(const Facts& facts, Text source, char out[65]);

}  // namespace od
