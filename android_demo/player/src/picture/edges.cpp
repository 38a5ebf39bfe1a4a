#include "picture/edges.h"

#include <math.h>

namespace od {
namespace {

constexpr i64 kTan = 13573;  // the tangent of 22.5 degrees, times 2^15

// A pixel's gradient: Sobel's of the channel where |x| + |y| is the largest, the first of equals.
struct Gradient {
  i32 x, y;

  i32 size() const { return (x < 0 ? -x : x) + (y < 0 ? -y : y); }
};

// Sums of rows or columns of three, the middle one twice; beyond the border stand the pixels of the border.
Gradient gradient_at(Pixels from, u32 x, u32 y) {
  const u32 columns[3] = {x ? x - 1 : 0, x, x + 1 < from.width ? x + 1 : x};
  const u32 rows[3] = {y ? y - 1 : 0, y, y + 1 < from.height ? y + 1 : y};
  Gradient best = {};
  for (u32 c = 0; c < 3; ++c) {
    const auto at = [&](int row, int column) {
      return i32(from.data[(size_t(rows[row]) * from.width + columns[column]) * 3 + c]);
    };
    const Gradient one = {
        at(0, 2) + 2 * at(1, 2) + at(2, 2) - at(0, 0) - 2 * at(1, 0) - at(2, 0),
        at(2, 0) + 2 * at(2, 1) + at(2, 2) - at(0, 0) - 2 * at(0, 1) - at(0, 2),
    };
    if (c == 0 || one.size() > best.size()) best = one;
  }
  return best;
}

// Sizes of gradients, of three rows at a time, with a 0 to both sides of each row.
class Sizes3 {
 public:
  bool open(Pixels from, Error& error) {
    from_ = from;
    row_ = size_t(from.width) + 2;
    if (!sizes_.resize(3 * row_)) return Pool::no_memory(error, 3 * row_ * sizeof(i32));
    fill(0);
    return true;
  }
  // Rows y - 1 to y + 1 are there from now on.
  void enter(u32 y) {
    if (y + 1 < from_.height) {
      fill(y + 1);
    } else {
      for (size_t i = 0; i < row_; ++i) row(y + 1)[i] = 0;
    }
  }
  i32 at(u32 x, u32 y, int right, int down) { return row(y + 3 + down)[x + 1 + right]; }

 private:
  i32* row(size_t y) { return sizes_.begin() + y % 3 * row_; }
  void fill(u32 y) {
    for (u32 x = 0; x < from_.width; ++x) row(y)[x + 1] = gradient_at(from_, x, y).size();
  }

  Pixels from_;
  size_t row_ = 0;
  List<i32> sizes_;
};

// Whether a gradient is a peak across the edge: in one of four directions.
bool is_peak(Gradient gradient, Sizes3& sizes, u32 x, u32 y) {
  const i32 own = sizes.at(x, y, 0, 0);
  const i64 along = gradient.x < 0 ? -gradient.x : gradient.x, down = i64(gradient.y < 0 ? -gradient.y : gradient.y)
                                                                      << 15;
  const i64 slope = along * kTan;
  if (down < slope) return own > sizes.at(x, y, -1, 0) && own >= sizes.at(x, y, 1, 0);
  if (down > slope + (along << 16)) return own > sizes.at(x, y, 0, -1) && own >= sizes.at(x, y, 0, 1);
  const int right = (gradient.x ^ gradient.y) < 0 ? -1 : 1;
  return own > sizes.at(x, y, -right, -1) && own > sizes.at(x, y, right, 1);
}

}  // namespace

Thresholds thresholds_of(double first, double second) {
  constexpr double kMost = 1 << 30;  // no gradient is as large
  const auto whole = [](double one) { return static_cast<i32>(one > 0 ? min(floor(one), kMost) : 0); };
  return {whole(min(first, second)), whole(max(first, second))};
}

bool find_edges(Pixels picture, Thresholds thresholds, List<u8>& out, Error& error) {
  constexpr u8 kNo = 0, kEdge = 1, kWeak = 2;
  const size_t count = size_t(picture.width) * picture.height;
  Sizes3 sizes;
  List<u32> stack;  // edges whose neighbours are still to be looked at
  if (!out.resize(count)) return Pool::no_memory(error, count);
  if (!sizes.open(picture, error)) return false;
  for (u32 y = 0; y < picture.height; ++y) {
    sizes.enter(y);
    for (u32 x = 0; x < picture.width; ++x) {
      const i32 own = sizes.at(x, y, 0, 0);
      u8& kind = out[size_t(y) * picture.width + x];
      const bool peak = own > thresholds.low && is_peak(gradient_at(picture, x, y), sizes, x, y);
      kind = peak ? (own > thresholds.high ? kEdge : kWeak) : kNo;
      if (kind == kEdge && !stack.push(y * picture.width + x)) return Pool::no_memory(error, count * sizeof(u32));
    }
  }
  // A weak one that touches an edge is one.
  while (!stack.empty()) {
    const u32 at = stack.back(), x = at % picture.width, y = at / picture.width;
    stack.pop();
    for (u32 row = y ? y - 1 : 0; row <= y + 1 && row < picture.height; ++row) {
      for (u32 column = x ? x - 1 : 0; column <= x + 1 && column < picture.width; ++column) {
        u8& kind = out[size_t(row) * picture.width + column];
        if (kind != kWeak) continue;
        kind = kEdge;
        if (!stack.push(row * picture.width + column)) return Pool::no_memory(error, count * sizeof(u32));
      }
    }
  }
  for (u8& kind : out) kind = kind == kEdge;
  return true;
}

bool trace(Pixels picture, Thresholds thresholds, u32 width, u32 height, List<u8>& out, Error& error) {
  List<u8> fitted, found;
  if (!resize(picture, width, height, fitted, error) ||
      !find_edges({fitted.begin(), width, height}, thresholds, found, error)) {
    return false;
  }
  if (!out.resize(fitted.size())) return Pool::no_memory(error, fitted.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = found[i / 3] ? 255 : 0;
  return true;
}

}  // namespace od
