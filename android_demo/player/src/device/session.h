// Replay: a bundle's plans on a device. Binds once, then only writes inputs, launches and reads outputs.
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "device/device.h"

namespace od {

// A tensor that stays on the device, in memory of its own, from the run that made it until `Session::drop`.
struct DeviceValue {
  Buffer buffer;
  Dtype dtype;
  Shape shape;
};

// What a port is fed with: the host's bytes, or values on the device that are joined along the first dimension.
struct Input {
  Text port;
  Bytes host;  // f32 or i32, of the operand's size
  Span<const DeviceValue* const> parts;
};

// What a port's result goes to: host memory of the operand's size, or a value on the device.
struct Output {
  Text port;
  Span<u8> host;
  DeviceValue* value = nullptr;
};

// Time of one launch, added up over runs; by plan and dispatch.
struct Launched {
  const Plan* plan;
  u32 dispatch, runs;
  double seconds;
};

class Session {
 public:
  Session(Bundle& bundle, Device& device) : bundle_(bundle), device_(device) {}
  ~Session() { close(); }

  // Refuse a plan that the device cannot run or has no memory for, then load what it needs: arena, weights, kernels.
  // Done by `run` where it was not before. `progress` of the kernels that are built; it may be null.
  bool bind(const Plan& plan, Error& error);

  // Run one plan. Every input port is in `inputs` once, and `outputs` name those that are wanted. Code::usage where an
  // input is missing, unknown or of another size; Code::cancelled where `cancel` became true meanwhile (work in flight
  // is waited for); Code::numeric with `check`, naming the first dispatch whose result is not finite.
  bool run(const Plan& plan, Span<const Input> inputs, Span<Output> outputs, Error& error);

  bool put(Bytes data, Dtype dtype, const Shape& shape, DeviceValue& out, Error& error);
  bool read(const DeviceValue& value, Span<u8> out, Error& error);
  void drop(DeviceValue& value);

  // Give back the arena and the weights that no other component has used; what is needed again is loaded again.
  void release(u32 component);
  void close();

  // Bytes on the device: arena, weights that are copies, values.
  u64 arena_bytes() const { return arena_.bytes; }
  u64 weight_bytes() const { return weight_bytes_; }

  volatile const bool* cancel = nullptr;
  bool check = false;
  bool profile = false;
  List<Launched> launched;

 private:
  struct Bound;
  struct Shard {
    u32 file;
    Buffer buffer;
    u64 bytes;
    u64 users[16];  // a bit for each component
  };
  struct Built {
    const PlanKernel* key;
    Program program;
  };
  Bundle& bundle_;
  Device& device_;
  List<Bound*> bound_;
  List<Shard> shards_;
  List<Built> programs_;
  Buffer arena_;
  u64 weight_bytes_ = 0;
};

}  // namespace od
