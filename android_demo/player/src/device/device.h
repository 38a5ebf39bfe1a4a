// One OpenCL device and one in-order queue: the few verbs by which plans run. Not for use by several threads at once.
#pragma once

#include "base/base.h"
#include "bundle/plan.h"
#include "device/opencl.h"

namespace od {

// A buffer, a part of one, or an image over one. `bytes` is its size.
struct Buffer {
  cl_mem handle = nullptr;
  u64 bytes = 0;
};

struct Facts {
  char name[256], vendor[256], platform[256], version[256], driver[256];
  bool is_cpu;
  u32 capabilities;  // Need
  u64 global_memory, allocation, work_group, local_memory, image_width, image_height;
  u32 compute_units;

  DeviceLimits limits() const;
};

// A built program and its kernel.
struct Program {
  cl_program program = nullptr;
  cl_kernel kernel = nullptr;
};

// Seconds of the device's clock.
struct Timespan {
  double begin, end;
};

class Device {
 public:
  ~Device() { close(); }

  // The device that `spec` names, else the one that the variable ONDEVICE_DEVICE names, else the best: a number in the
  // order of `list`, "gpu" or "cpu", or a part of a name. `cache`: folder for compiled kernels; null: the usual one;
  // "": none. Code::no_device, which says where an OpenCL library was looked for.
  bool open(const char* spec, const char* cache, Error& error);
  void close();
  // Facts of every device that there is, and of libraries that were tried, for people.
  static bool list(List<Facts>& out, char* tried, size_t room, Error& error);

  const Facts& facts() const { return facts_; }

  // Compile, or take the cached binary; one that the driver refuses is built again from its source. `source` is ended
  // by a zero; the entry point is `entry`. Code::kernel_build with the driver's log.
  bool build(Text source, Text entry, Text where, Program& out, Error& error);
  void release(Program& program);

  bool allocate(u64 bytes, Text what, Buffer& out, Error& error);
  // Read-only. On a CPU the bytes themselves (which must stay where they are); else a copy, moved in small parts.
  bool upload(Bytes data, Text what, Buffer& out, Error& error);
  bool maps_weights() const { return facts_.is_cpu; }
  bool part(const Buffer& whole, u64 offset, u64 bytes, Buffer& out, Error& error);
  bool image(const Buffer& over, u32 width, u32 height, Dtype dtype, Text what, Buffer& out, Error& error);
  void release(Buffer& buffer);

  bool write(const Buffer& buffer, u64 offset, Bytes data, Error& error);
  bool read(const Buffer& buffer, u64 offset, Span<u8> out, Error& error);  // waits for all work
  bool copy(const Buffer& from, const Buffer& to, u64 bytes, u64 offset, Error& error);

  // Set all arguments and enqueue. `event` may be null; one that is given must be released.
  bool launch(const Program& program, Span<const Buffer* const> buffers, Span<const Scalar> scalars, const u32 grid[3],
              const u32 group[3], Text where, cl_event* event, Error& error);
  bool wait(cl_event event, Error& error);
  bool span(cl_event event, Timespan& out, Error& error);
  void release(cl_event event);
  bool finish(Error& error);

  u32 cache_hits = 0, cache_misses = 0;

 private:
  bool failed(cl_int code, Text where, Error& error);
  Facts facts_ = {};
  cl_device_id device_ = nullptr;
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr;
  char cache_[1024] = "";
};

}  // namespace od
