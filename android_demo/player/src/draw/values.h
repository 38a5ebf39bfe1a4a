// The values of one picture: what roles gave, by name and, where they change with the text, by the text's name.
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

  bool open(Error& error);
  // The place of a value; of one that changes with the text, that text's.
  Kept& at(i32 value, i32 text);
  bool was_made(i32 value) const;  // for any text
  // Take a value that a role made; what was there is given back.
  void keep(i32 value, i32 text, const DeviceValue& made);
  // The host's copy of a value, which stays; `count` floats. It may be f32 or f16 on the device.
  bool host(const Kept& kept, List<float>& out, Error& error);

 private:
  size_t place(i32 value, i32 text) const;
  const Pipeline& pipeline_;
  Session& session_;
  Pool pool_;
  Span<Kept> kept_;
};

float from_half(u16 half);

}  // namespace od
