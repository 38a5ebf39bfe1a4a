// The values of one picture: what roles gave, by name and, where they change with the text, by the part of it.
#pragma once

#include "base/base.h"
#include "bundle/pipeline.h"
#include "device/session.h"

namespace od {

// A tensor: on the device, or float32 of the host's.
struct Kept {
  bool made = false, on_device = false;
  DeviceValue device;
  List<float> host;
  Shape shape;  // of the host's
};

class Values {
 public:
  Values(const Pipeline& pipeline, Session& session) : pipeline_(pipeline), session_(session) {}
  ~Values();
  Values(const Values&) = delete;

  // For texts of so many parts in all.
  bool open(size_t parts, Error& error);
  // The place of a value; of one that changes with the text, that part's.
  Kept& at(i32 value, i32 part);
  bool was_made(i32 value) const;  // for any part
  // Take a value that a role made; what was there is given back.
  void keep(i32 value, i32 part, const DeviceValue& made);
  // Zeros on the device, which are there once for each type and stay.
  bool zeros(Dtype dtype, const Shape& shape, const DeviceValue*& out, Error& error);
  // Give back what a role of a call made.
  void drop_call(const Role& role);
  // The host's copy of a value, which stays; `count` floats. It may be f32 or f16 on the device.
  bool host(const Kept& kept, List<float>& out, Error& error);
  bool host(const DeviceValue& value, List<float>& out, Error& error);

 private:
  size_t place(i32 value, i32 part) const;
  const Pipeline& pipeline_;
  Session& session_;
  Pool pool_;
  size_t row_ = 1;  // places of a value: for no text, and for each part
  Span<Kept> kept_;
  List<DeviceValue*> zeros_;
};

}  // namespace od
