// Pictures of what is being drawn, in a folder that a browser or an app can watch (docs/previews.md).
#pragma once

#include "base/base.h"
#include "picture/prepare.h"

namespace od {

// Writes them while pictures are drawn, and how far these are. A file that cannot be written ends it, and nothing else.
class Previews {
 public:
  // Of `count` pictures; `folder` is null where nobody asked for them.
  Previews(const char* folder, u32 count) : folder_(folder), count_(count) {}

  const char* folder() const { return folder_; }
  // Picture `number` is drawn from now on, counted from 1.
  void begin(u32 number);
  void show(u32 done, Pixels pixels);
  // So many calls are done; `left` is negative where it is not known.
  void step(u32 done, u32 calls, double left);
  // All calls are done, whether it was heard of the last or not.
  void finish();
  // The picture is drawn, and written to `out`.
  void end(const char* out);
  // Whether all could be written. Code::output.
  bool good(Error& error) const;

 private:
  void report(double left, const char* out);
  bool write(const char* name, Bytes data);

  const char* folder_;
  u32 count_, number_ = 1, done_ = 0, calls_ = 0;
  char picture_[48] = "";  // the newest one that is there
  Error failed_;
};

}  // namespace od
