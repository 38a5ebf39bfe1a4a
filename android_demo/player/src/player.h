// A bundle on a device, as apps and the command line hold it.
#pragma once

#include "base/base.h"
#include "base/json_writer.h"
#include "bundle/bundle.h"
#include "device/device.h"
#include "device/session.h"
#include "draw/draw.h"

namespace od {

struct PlayerOptions {
  const char* bundle = nullptr;  // a path; null: `descriptor`
  int descriptor = -1;
  const char* name = "bundle";
  const char* device = nullptr;
  const char* cache = nullptr;
  const char* plans = nullptr;
  const char* avoid = nullptr;  // a list of programs that are wrong on the device: no plan with one is taken
};

class Player {
 public:
  Player() : session_(bundle_, device_) {}

  // Opens the bundle, then the device, then chooses the plans; loads no weights.
  bool open(const PlayerOptions& options, Error& error);
  bool draw(const Request& request, const Watch& watch, Drawn& out, Error& error);
  void cancel() { cancelled_ = true; }
  void unload() { session_.close(); }

  Bundle& bundle() { return bundle_; }
  Device& device() { return device_; }
  Session& session() { return session_; }

 private:
  bool avoid(const PlayerOptions& options, Error& error);
  Bundle bundle_;
  Device device_;
  Session session_;
  Drawing drawing_;
  bool draws_ = false;  // whether the bundle has a pipeline that was opened
  volatile bool cancelled_ = false;
};

// What there is: the model, sizes with the memory that each way needs, texts, numbers, samplers with steps; the device.
void describe(Player& player, JsonWriter& out);
void describe(const Facts& facts, JsonWriter& out);

struct BenchOptions {
  u32 warmups = 1, repeats = 5, steps = 0;  // steps of a picture; 0: the bundle's
};

// A picture drawn `repeats` times: seconds of each, of its parts and of each kernel, and memory. Code::cancelled.
bool bench(Player& player, const BenchOptions& options, JsonWriter& out, Error& error);

}  // namespace od
