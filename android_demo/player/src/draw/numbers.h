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
  // Every number as given, or its default. Code::usage for one that the pipeline does not have, or out of range.
  bool resolve(const Pipeline& pipeline, Span<const NamedNumber> given, u32 width, u32 height, Error& error);
  // Numbers that have a window are 0 in calls outside of it (diffusers' control_guidance_start and _end).
  void enter(u32 call, u32 calls);
  // Outside of the loop all count.
  void leave();
  double of(const Amount& amount) const;
  double operator[](i32 number) const { return now_[static_cast<size_t>(number)]; }

 private:
  const Pipeline* pipeline_ = nullptr;
  double width_ = 0, height_ = 0;
  List<double> chosen_, now_;
};

}  // namespace od
