// Builds programs, and says why a driver refused one.
#pragma once

#include "base/base.h"
#include "device/device.h"

namespace od {

constexpr const char* kBuildOptions = "-cl-std=CL1.2";

struct BuildFailure {
  const char* function = "";
  cl_int code = CL_SUCCESS;
  List<char> log;
};

// A program of a text, or of a binary, and its kernel: some drivers compile only then. `entry` is ended by a zero.
bool compile_source(const OpenCL& cl, cl_context context, cl_device_id device, Text source, const char* entry,
                    Program& out, BuildFailure& failure);
bool compile_binary(const OpenCL& cl, cl_context context, cl_device_id device, Bytes binary, const char* entry,
                    Program& out, BuildFailure& failure);
void release(const OpenCL& cl, Program& program);

// Put the program's binary into `file`, after `head` bytes of room. False where the driver gives none.
bool binary_of(const OpenCL& cl, const Program& program, size_t head, List<u8>& file);

// Code::kernel_build: file, line and reason first, then as much of the driver's log as a screen holds.
bool refuse_build(const BuildFailure& failure, const Facts& facts, Text where, Error& error);
// One line of a log that says most: of one that a device's own fault is in.
Text telling_line(const BuildFailure& failure);

}  // namespace od
