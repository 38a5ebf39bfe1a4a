// Replay: a bundle's plans on a device. Binds once, then only writes inputs, launches and reads outputs.
#pragma once

#include "adapt/changed.h"
#include "base/base.h"
#include "bundle/bundle.h"
#include "device/blocks.h"
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

// What a port's result goes to: host memory of the operand's size, or a value on the device, which is made here.
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

// One arena serves every plan and grows to the largest in use; weights are loaded when a plan first needs them and
// shared by all plans; kernels are built once. After an error nothing runs on the device, and the session can be used
// again. Not for use by several threads at once; but `cancel` may be set by any.
class Session {
 public:
  Session(Bundle& bundle, Device& device) : bundle_(bundle), device_(device) {}
  ~Session() { close(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Refuse a plan that the device cannot run or has no memory for, then load what it needs: arena, weights, kernels.
  // Done by `run` where it was not before. Code::device, Code::kernel_build, Code::cancelled.
  bool bind(const Plan& plan, Error& error);

  // Run one plan. Every input port is in `inputs` once, and `outputs` name those that are wanted. Code::usage where an
  // input is missing, unknown or of another size; Code::cancelled where `cancel` became true meanwhile (work in flight
  // is waited for); Code::numeric with `check`, naming the first dispatch whose result is not finite. Where only values
  // on the device are asked for, it may return before the work is done.
  bool run(const Plan& plan, Span<const Input> inputs, Span<Output> outputs, Error& error);

  // A value of the host's bytes. Code::device.
  bool put(Bytes data, Dtype dtype, const Shape& shape, DeviceValue& out, Error& error);
  // A copy of `count` rows of the first dimension, from row `first` on.
  bool part(const DeviceValue& value, u32 first, u32 count, DeviceValue& out, Error& error);
  bool read(const DeviceValue& value, Span<u8> out, Error& error);
  void drop(DeviceValue& value);

  // Run with these adapters in the weights from now on; none: with the bundle's own. A weight gets its new values when
  // a plan that reads it is bound, so that none is ever half changed: what an error ends is made again by the next
  // run. A weight of a mapped file gets memory of its own, others are written where they are.
  bool adapt(Span<const ActiveAdapter> adapters, Error& error);
  const Changed* changed() const { return changed_; }

  // Load weights a block at a time from now on, or whole again: results are the same. Those that adapters change have
  // memory of their own all the same.
  void stream(const Streaming& how);

  // Give back the arena and the weights that no other component has used; what is needed again is loaded again.
  void release(u32 component);
  void close();

  // Whether weights are the mapped files themselves, which the system may drop.
  bool maps_weights() const { return device_.facts().is_cpu; }
  // Bytes on the device: arena, weights that are copies or their window, values.
  u64 arena_bytes() const { return arena_.bytes; }
  u64 weight_bytes() const { return weight_bytes_ + window_.bytes; }
  u64 value_bytes() const { return value_bytes_; }
  // The most bytes of streamed weights that were loaded at a time.
  u64 streamed_bytes() const { return streamed_most_; }

  volatile const bool* cancel = nullptr;
  u64 memory_limit = 0;  // bytes that the device may be asked for by arena and weights; 0: what it has
  bool check = false;    // read every result back and stop at the first NaN or infinity (slow)
  bool profile = false;  // time every launch, in `launched`
  List<Launched> launched;
  // Told before each program that a plan is built of, and at their end; may be null.
  void (*building)(void* user, u32 built, u32 programs) = nullptr;
  void* building_user = nullptr;
  // Told before each weight of a plan that gets new values, and at their end; may be null.
  void (*changing)(void* user, u32 done, u32 weights) = nullptr;
  void* changing_user = nullptr;

 private:
  // Bytes of a file of weights, and where they lie in the window.
  struct Piece {
    u32 file;
    u64 from, until, place;
  };
  // An operand's buffer while a block is loaded.
  struct Lent {
    u32 operand;
    Buffer buffer;
  };
  // The weights of one plan on their way through the window; by block.
  struct Streamed {
    Window window;
    Span<Span<Piece>> touched, fetched;  // of a mapped table, of which rows are picked, nothing is fetched
    Span<Span<Lent>> lent;
    u32 loaded, done;  // blocks of this run
  };
  struct Bound {
    const Plan* plan;
    Text name;             // for errors: component and sizes
    Span<Buffer> buffers;  // by operand; those of weights are the session's
    Span<u32> programs;    // by kernel: index into programs_
    Span<u64> whole;       // by dispatch, with `check`: which of its results are whole then
    Streamed* streamed;    // null where weights are loaded whole
  };
  struct Shard {
    u32 file;
    Buffer buffer;      // none before it is loaded
    u64 bytes, copied;  // copied: bytes of the device's own memory
    u64 users[16];      // a bit for each component
  };
  struct Built {
    u32 file;
    Span<Define> defines;
    Program program;
  };

  bool cancelled(const Plan& plan, Error& error) const;
  bool check_inputs(const Plan& plan, Span<const Input> inputs, Span<Output> outputs, Error& error) const;
  bool feed(const Plan& plan, const Bound& bound, Span<const Input> inputs, Error& error);
  bool launch(Bound& bound, Error& error);
  bool launch_all(Bound& bound, List<cl_event>& events, Error& error);
  bool add_times(const Bound& bound, const List<cl_event>& events, Error& error);
  bool take(const Plan& plan, const Bound& bound, Span<Output> outputs, Error& error);
  bool take_one(const Plan& plan, const Bound& bound, const Output& output, Error& error);
  Bound* find(const Plan& plan);

  bool bind_anew(const Plan& plan, Error& error);
  bool check_needs(const Plan& plan, Text name, Error& error) const;
  bool make_room(const Plan& plan, Text name, const Window* window, Error& error);
  bool build_programs(const Plan& plan, Bound& bound, Error& error);
  bool make_buffers(const Plan& plan, Bound& bound, Error& error);
  bool make_program(const PlanKernel& kernel, u32& index, Error& error);
  bool weight(u32 index, Buffer& out, Error& error);
  bool fill(u32 index, Shard& shard, Error& error);
  bool is_new(u32 index) const;  // whether it has to get new values before it is used
  void drop_weight(u32 index);
  u64 own_bytes(const Plan& plan) const;
  bool load(Shard& shard, Error& error);
  Shard* shard_of(u32 file);
  void unbind();
  void unload(Shard& shard);

  bool passes(u32 weight) const;  // whether it goes through the window's buffer
  bool make_streamed(const Plan& plan, Bound& bound, Error& error);
  bool find_pieces(const Plan& plan, const Block& block, bool all, Span<Piece>& out, Error& error);
  bool lend(const Plan& plan, Bound& bound, u32 index, Error& error);
  bool enter_block(Bound& bound, u32 number, const List<cl_event>& events, Error& error);
  bool load_piece(const Piece& piece, Error& error);
  void leave_blocks(Bound& bound, u32 until);

  Bundle& bundle_;
  Device& device_;
  Pool bound_pool_;  // of what `bound_` holds; given back as a whole
  List<Bound*> bound_;
  List<Shard> shards_;
  // Of a weight: its shard holds the bundle's bytes; or changed ones; or it has a buffer of its own.
  enum class Holds : u8 { base, changed, own };
  List<Buffer> weights_;  // by index into the manifest's; parts of shards
  List<Holds> holds_;
  Changed* changed_ = nullptr;
  List<Built> programs_;
  Buffer arena_, window_;
  Streaming streaming_;
  u64 streamed_now_ = 0, streamed_most_ = 0;
  u64 weight_bytes_ = 0, value_bytes_ = 0;
};

}  // namespace od
