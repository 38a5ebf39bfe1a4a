#include "picture/clip_picture.h"

#include <math.h>

namespace od {
namespace {

constexpr u32 kMostSide = 1 << 16;
constexpr double kMean[] = {0.48145466, 0.4578275, 0.40821073}, kDeviation[] = {0.26862954, 0.26130258, 0.27577711};

double cubic(double t) {
  t = fabs(t);
  if (t <= 1) return 1.25 * t * t * t - 2.25 * t * t + 1;
  return t < 2 ? -0.75 * t * t * t + 3.75 * t * t - 6 * t + 3 : 0.0;
}

// A place beyond an edge as that on the other side of its pixel.
u32 mirrored(i64 place, u32 length) {
  if (length == 1) return 0;
  const i64 period = 2 * i64(length) - 2;
  place = (place < 0 ? -place : place) % period;
  return static_cast<u32>(place < length ? place : period - place);
}

// How a direction of `length` pixels becomes 224: blurred against aliasing, then bicubic with corners aligned. Each
// pixel of the result is a sum of `width` weights from `first[o]` on, of pixels that may lie beyond an edge.
class Direction {
 public:
  bool open(u32 length, Error& error) {
    length_ = length;
    const double sigma = max((double(length) / kClipSide - 1) / 2, 0.001);
    const auto size = static_cast<u32>(max(4 * sigma, 3.0));
    reach_ = (size + 1 - size % 2) / 2;
    if (!kernel_.resize(2 * reach_ + 1)) return Pool::no_memory(error, reach_ * sizeof(double));
    double sum = 0;
    for (u32 i = 0; i <= 2 * reach_; ++i) {
      const double d = double(i) - reach_;
      sum += kernel_[i] = exp(-(d * d) / (2 * sigma * sigma));
    }
    for (double& weight : kernel_) weight /= sum;
    return blurred_.resize(length) || Pool::no_memory(error, length * sizeof(double));
  }

  // One line of values, `stride` from each to the next, into 224 of them.
  void apply(const double* from, size_t stride, double* to, size_t to_stride) {
    for (u32 x = 0; x < length_; ++x) {
      double sum = 0;
      for (u32 i = 0; i < kernel_.size(); ++i) {
        sum += kernel_[i] * from[mirrored(i64(x) + i - reach_, length_) * stride];
      }
      blurred_[x] = sum;
    }
    for (u32 o = 0; o < kClipSide; ++o) {
      const double at = double(o) * (length_ - 1) / (kClipSide - 1), low = floor(at);
      double sum = 0;
      for (int offset = -1; offset < 3; ++offset) {
        const double place = low + offset;
        const auto x = static_cast<u32>(min(max(place, 0.0), double(length_ - 1)));
        sum += cubic(at - place) * blurred_[x];
      }
      to[o * to_stride] = sum;
    }
  }

 private:
  u32 length_ = 0, reach_ = 0;
  List<double> kernel_, blurred_;
};

}  // namespace

bool clip_picture(Pixels picture, List<float>& out, Error& error) {
  const u32 width = picture.width, height = picture.height;
  if (!picture.data || !width || !height || width > kMostSide || height > kMostSide) {
    return fail(error, Code::usage, "image", "give a smaller picture",
                "cannot be prepared (got %u x %u, expected 1 x 1 to %u x %u).", width, height, kMostSide, kMostSide);
  }
  const size_t plane = size_t(kClipSide) * kClipSide;
  Direction across, down;
  List<double> rows, line;  // of one channel, [height, 224]; a line of pixels
  if (!rows.resize(size_t(height) * kClipSide) || !line.resize(width) || !out.resize(3 * plane)) {
    return Pool::no_memory(error, size_t(height) * kClipSide * sizeof(double));
  }
  if (!across.open(width, error) || !down.open(height, error)) return false;
  for (size_t c = 0; c < 3; ++c) {
    for (size_t y = 0; y < height; ++y) {
      for (size_t x = 0; x < width; ++x) line[x] = 2 * (picture.data[(y * width + x) * 3 + c] / 255.0) - 1;
      across.apply(line.begin(), 1, rows.begin() + y * kClipSide, 1);
    }
    double column[kClipSide];
    for (size_t x = 0; x < kClipSide; ++x) {
      down.apply(rows.begin() + x, kClipSide, column, 1);
      for (size_t y = 0; y < kClipSide; ++y) {
        out[c * plane + y * kClipSide + x] = static_cast<float>(((column[y] + 1) / 2 - kMean[c]) / kDeviation[c]);
      }
    }
  }
  return true;
}

}  // namespace od
