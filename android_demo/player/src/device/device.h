// One OpenCL device and one in-order queue, with another for what is copied meanwhile: the few verbs by which plans run. Not for use by several threads at once.
#pragma once

#include "base/base.h"
#include "bundle/plan.h"
#include "device/cache.h"
#include "device/opencl.h"

namespace od {

// A buffer, a part of one, or an image over one. `bytes` is its size.
struct Buffer {
  cl_mem handle = nullptr;
  u64 bytes = 0;
};

enum class DeviceKind : u8 { gpu, cpu, accelerator, other };
const char* name_of(DeviceKind kind);

// Needs that the OpenCL prelude has words for whatever a device has.
constexpr u32 kSpelled = kMatrixUnit | kWaveConstants;

struct Facts {
  char index[24];  // "platform:device", as the library counts them
  char name[256], vendor[256], platform[256], platform_version[256], version[256], driver[256];
  DeviceKind kind;
  bool is_cpu, available, little_endian;
  u32 capabilities;                                                                    // Need
  u64 global_memory, allocation, work_group, local_memory, image_width, image_height;  // images: 0 where it has none
  u32 compute_units, alignment, pitch_alignment;  // bytes of a buffer's place; texels of an image's row, 0: not known
  char refused[256];                              // of `list`: why it is not used; empty where it can be

  // What plans can rely on of it: its name and version live as long as these facts.
  DeviceLimits limits() const;
};

// Bytes for people: "1,234.5 MB".
struct Megabytes {
  char text[32];
  explicit Megabytes(u64 bytes);
};

// A built program and its kernel.
struct Program {
  cl_program program = nullptr;
  cl_kernel kernel = nullptr;
  u32 arguments = 0;
};

// Where a launch comes from, for errors.
struct Origin {
  Text plan, node, op;
};

// Seconds of the device's clock.
struct Timespan {
  double begin, end;
};

class Device {
 public:
  Device() = default;
  ~Device() { close(); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // The device that `spec` names, else the one that the variable ONDEVICE_DEVICE names, else the best: a number in the
  // order of `list`, "platform:device", "gpu" or "cpu", or a part of a name. `cache`: folder for compiled kernels;
  // null: the usual one; "": none. Code::no_device, which says what was found, and where an OpenCL library was looked
  // for.
  bool open(const char* spec, const char* cache, Error& error);
  void close();
  // Facts of every device that there is, best first, and remarks on drivers that have none.
  static bool list(const char* cache, List<Facts>& out, char* remarks, size_t room, Error& error);

  const Facts& facts() const { return facts_; }
  const KernelCache& cache() const { return cache_; }

  // Compile, or take the cached binary; one that the driver refuses is built again from its source. The entry point is
  // `entry`; `where` names file and defines in errors. Code::kernel_build with the driver's log.
  bool build(Text source, Text entry, Text where, Program& out, Error& error);
  void release(Program& program);

  // Of undefined content. Code::device where it is over the device's limit, or the driver has no memory left.
  bool allocate(u64 bytes, Text what, Buffer& out, Error& error);
  // Read-only. On a CPU the bytes themselves, which must stay where they are, if they lie where the device wants them;
  // else a copy. `moved` is called after each part of a copy, so that no mapped file lies in memory as a whole.
  bool upload(Bytes data, Text what, Buffer& out, Error& error, void (*moved)(void* user) = nullptr,
              void* user = nullptr);
  // Whether `upload` takes no memory of its own.
  bool maps(Bytes data) const;
  bool part(const Buffer& whole, u64 offset, u64 bytes, Buffer& out, Error& error);
  // Read-only texels of four elements over a buffer's bytes, from its first on and row after row.
  bool image(const Buffer& over, u32 width, u32 height, Dtype dtype, Text what, Buffer& out, Error& error);
  void release(Buffer& buffer);

  bool write(const Buffer& buffer, u64 offset, Bytes data, Error& error);   // returns when it is there
  // The same beside kernels that do not use that part of the buffer, on a queue of its own.
  bool fill(const Buffer& buffer, u64 offset, Bytes data, Error& error);
  bool read(const Buffer& buffer, u64 offset, Span<u8> out, Error& error);  // waits for all work
  // Enqueues a copy of `bytes` of one buffer, from `from_offset` on, to `offset` bytes into another.
  bool copy(const Buffer& from, const Buffer& to, u64 bytes, u64 offset, Error& error, u64 from_offset = 0);

  // Set all arguments and enqueue. `event` may be null; one that is given must be released.
  bool launch(const Program& program, Span<const Buffer* const> buffers, Span<const Scalar> scalars, const u32 grid[3],
              const u32 group[3], const Origin& origin, cl_event* event, Error& error);
  bool wait(cl_event event, Error& error);
  bool span(cl_event event, Timespan& out, Error& error);
  void release(cl_event event);
  bool finish(Error& error);

 private:
  bool make_buffer(cl_bitfield flags, u64 bytes, void* host, Text what, Buffer& out, Error& error);
  bool failed(const char* function, cl_int code, Text where, Error& error) const;

  const OpenCL* cl_ = nullptr;
  Facts facts_ = {};
  cl_device_id device_ = nullptr;
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr, filling_ = nullptr;
  KernelCache cache_;
};

}  // namespace od
