// What the ports of one run are fed with, and all that it holds until the run is done.
#pragma once

#include "base/base.h"
#include "device/session.h"

namespace od {

// One pass's part of a port: on the device, or bytes of the host's.
struct Part {
  const DeviceValue* device = nullptr;
  Bytes host;
  Dtype dtype = Dtype::f32;  // of the host's
  Shape shape;
};

class Feeds {
 public:
  explicit Feeds(Session& session) : session_(session) {}
  ~Feeds();
  Feeds(const Feeds&) = delete;

  // Bytes that live as long as this; a copy of `data`, or zeros where it has no data.
  bool hold(Bytes data, Bytes& out, Error& error);
  // Zeros of one pass's part of a port, of `passes` that the plan takes.
  bool zeros(const Operand& port, u32 passes, Part& out, Error& error);
  // `count` rows of the first dimension of a value on the device, from row `first` on.
  bool slice(const DeviceValue& value, u32 first, u32 count, Part& out, Error& error);
  // A port gets the parts one after another along the first dimension. Host parts become one; where some are on the
  // device, all do.
  bool add(Text port, Span<const Part> parts, Error& error);
  Span<const Input> inputs() const { return {inputs_.begin(), inputs_.size()}; }

 private:
  Session& session_;
  Pool pool_;
  List<Input> inputs_;
  List<DeviceValue*> put_;
};

}  // namespace od
