#include "picture/prepare.h"

#include <math.h>

#include "picture/clip_picture.h"
#include "picture/edges.h"

namespace od {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kReach = 3;         // of Lanczos' window, to both sides
constexpr int kFraction = 22;        // bits of a weight behind the point
constexpr u64 kMost = u64(1) << 30;  // pixels of a picture on its way

double sinc(double x) { return x == 0 ? 1.0 : sin(kPi * x) / (kPi * x); }
double lanczos(double x) { return x >= -kReach && x < kReach ? sinc(x) * sinc(x / kReach) : 0.0; }

// How one direction of `from` pixels becomes `to`: pixel x is the weighted sum of `count` pixels from `first` on.
struct Window {
  u32 first, count;
  size_t weights;  // where they begin
};

struct Weights {
  List<Window> windows;
  List<i32> values;

  bool find(u32 from, u32 to);
};

bool Weights::find(u32 from, u32 to) {
  const double step = static_cast<double>(from) / to;
  const double stretch = step > 1 ? step : 1;
  if (!windows.resize(to)) return false;
  List<double> exact;
  for (u32 x = 0; x < to; ++x) {
    const double middle = (x + 0.5) * step;
    const double low = middle - kReach * stretch + 0.5, high = middle + kReach * stretch + 0.5;
    const u32 first = low > 0 ? static_cast<u32>(low) : 0;
    const u32 last = high < from ? static_cast<u32>(high) : from;
    windows[x] = {first, last - first, values.size()};
    if (!exact.resize(last - first) || !values.resize(values.size() + (last - first))) return false;
    double sum = 0;
    for (u32 i = first; i < last; ++i) {
      exact[i - first] = lanczos((i - middle + 0.5) / stretch);
      sum += exact[i - first];
    }
    i32* whole = values.begin() + windows[x].weights;
    for (u32 i = 0; i < last - first; ++i) {
      const double weight = exact[i] / sum * (1 << kFraction);
      whole[i] = static_cast<i32>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
  return true;
}

// One line of pixels, `stride` bytes from each to the next in both pictures.
void resample(const Weights& weights, const u8* from, size_t from_stride, u8* to, size_t to_stride) {
  for (const Window& window : weights.windows) {
    i64 sums[3] = {1 << (kFraction - 1), 1 << (kFraction - 1), 1 << (kFraction - 1)};
    const i32* weight = weights.values.begin() + window.weights;
    const u8* pixel = from + window.first * from_stride;
    for (u32 i = 0; i < window.count; ++i, pixel += from_stride) {
      for (int c = 0; c < 3; ++c) sums[c] += i64(weight[i]) * pixel[c];
    }
    for (int c = 0; c < 3; ++c) {
      const i64 value = sums[c] >> kFraction;
      to[c] = static_cast<u8>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
    to += to_stride;
  }
}

}  // namespace

bool resize(Pixels from, u32 width, u32 height, List<u8>& out, Error& error) {
  const u64 most = max(u64(from.height) * max(from.width, width), u64(height) * width);
  if (!from.data || !from.width || !from.height || !width || !height || most > kMost) {
    return fail(error, Code::usage, "image", "give a smaller picture",
                "cannot be resized (got %u x %u, to be %u x %u).", from.width, from.height, width, height);
  }
  const u8* source = from.data;
  List<u8> wide;  // the right width, its own height
  if (width != from.width) {
    Weights weights;
    const size_t size = size_t(from.height) * width * 3;
    if (!weights.find(from.width, width) || !wide.resize(size)) return Pool::no_memory(error, size);
    for (size_t y = 0; y < from.height; ++y) {
      resample(weights, from.data + y * from.width * 3, 3, wide.begin() + y * width * 3, 3);
    }
    source = wide.begin();
  }
  const size_t row = size_t(width) * 3;
  if (!out.resize(height * row)) return Pool::no_memory(error, height * row);
  if (height == from.height) {
    for (size_t i = 0; i < height * row; ++i) out[i] = source[i];
    return true;
  }
  Weights weights;
  if (!weights.find(from.height, height)) return Pool::no_memory(error, height * row);
  for (size_t x = 0; x < row; x += 3) resample(weights, source + x, row, out.begin() + x, row);
  return true;
}

bool fit_mask(Pixels mask, u32 width, u32 height, List<u8>& out, Error& error) {
  if (!resize(mask, width, height, out, error)) return false;
  const size_t count = size_t(width) * height;
  for (size_t i = 0; i < count; ++i) {
    const u8* pixel = out.begin() + 3 * i;
    out[i] = (19595u * pixel[0] + 38470u * pixel[1] + 7471u * pixel[2] + 32768u) >> 16 >= 128;
  }
  return out.resize(count);
}

bool prepare(Prepare how, Pixels picture, Pixels other, u32 width, u32 height, u32 scale, List<float>& out,
             Error& error) {
  if (how == Prepare::clip_vision) return clip_picture(picture, out, error);
  List<u8> fitted, mask;
  if (how == Prepare::mask) {
    const u32 columns = width / scale, rows = height / scale;
    if (!fit_mask(picture, width, height, mask, error)) return false;
    if (!out.resize(size_t(columns) * rows)) return Pool::no_memory(error, size_t(columns) * rows * sizeof(float));
    for (size_t i = 0; i < out.size(); ++i) out[i] = mask[i / columns * scale * width + i % columns * scale];
    return true;
  }
  if (how == Prepare::masked && !fit_mask(other, width, height, mask, error)) return false;
  if (!resize(picture, width, height, fitted, error)) return false;
  const size_t plane = size_t(width) * height;
  if (!out.resize(3 * plane)) return Pool::no_memory(error, 3 * plane * sizeof(float));
  if (how == Prepare::edges) {
    if (!find_edges({fitted.begin(), width, height}, {}, mask, error)) return false;
    for (size_t i = 0; i < 3 * plane; ++i) out[i] = mask[i % plane];
    return true;
  }
  for (size_t i = 0; i < plane; ++i) {
    const bool hidden = how == Prepare::masked && mask[i];
    for (size_t c = 0; c < 3; ++c) {
      const float unit = static_cast<float>(fitted[i * 3 + c]) / 255.0f;
      out[c * plane + i] = hidden ? 0.0f : how == Prepare::unit ? unit : 2.0f * unit - 1.0f;
    }
  }
  return true;
}

void to_pixels(Span<const float> sample, u32 width, u32 height, Span<u8> out) {
  const size_t plane = size_t(width) * height;
  for (size_t i = 0; i < plane; ++i) {
    for (size_t c = 0; c < 3; ++c) {
      const float unit = 0.5f * sample[c * plane + i] + 0.5f;
      out[i * 3 + c] = static_cast<u8>(rintf(255.0f * (unit > 0 ? (unit < 1 ? unit : 1.0f) : 0.0f)));
    }
  }
}

}  // namespace od
