// The numbers of one picture: the user's, the pipeline's defaults, and windows in which they count.
#pragma once

#include "base/base.h"
#include "bundle/pipeline.h"

namespace od {

struct NamedNumber {
  Text name;
  double value;
};

class Numbers {
 public:
  // Every number as given, or its default; `masked`: of a run that draws a part of a picture anew. Ramps between them
  // are none of these. Code::usage for one that the pipeline does not have, or out of range.
  bool resolve(const Pipeline& pipeline, Span<const NamedNumber> given, u32 width, u32 height, bool masked,
               Error& error);
  // Numbers that have a window are 0 in calls outside of it (diffusers' control_guidance_start and _end).
  void enter(u32 call, u32 calls);
  // Outside of the loop all count.
  void leave();
  double of(const Amount& amount) const;
  double operator[](i32 number) const { return now_[static_cast<size_t>(number)]; }
  // A number in one frame, which counts of a ramp; and the largest in all frames.
  float in_frame(i32 number, u32 frame) const;
  double largest(i32 number) const;
  u32 frames() const { return frames_; }  // 1 of a picture

 private:
  const Pipeline* pipeline_ = nullptr;
  double width_ = 0, height_ = 0;
  u32 frames_ = 1;
  List<double> chosen_, now_;
};

}  // namespace od
