#include "adapt/expression.h"

#include <string.h>

namespace od {
namespace {

// Of G w G^T: the points 0, +-1/sqrt 2, +-sqrt 2, infinity (ondevice/lower/stored.py).
constexpr double kP = 0.70710678118654757, kQ = 1.4142135623730951;
constexpr double kTaps[6][3] = {{1, 0, 0},
                                {-2.0 / 3, -2.0 / 3 * kP, -1.0 / 3},
                                {-2.0 / 3, 2.0 / 3 * kP, -1.0 / 3},
                                {1.0 / 6, kQ / 6, 1.0 / 3},
                                {1.0 / 6, -kQ / 6, 1.0 / 3},
                                {0, 0, 1}};

template <class T>
bool sized(const Shape& shape, List<T>& out, Error& error) {
  const size_t count = static_cast<size_t>(shape.count());
  out.clear();
  return out.resize(count) || Pool::no_memory(error, count * sizeof(T));
}

template <class T>
bool copy(Span<const T> from, List<T>& out, Error& error) {
  if (!out.resize(from.count)) return Pool::no_memory(error, from.count * sizeof(T));
  if (from.count) memcpy(out.begin(), from.data, from.count * sizeof(T));
  return true;
}

u64 count_of(const Shape& shape, u32 from, u32 to) {
  u64 product = 1;
  for (u32 i = from; i < to; ++i) product *= shape.dims[i];
  return product;
}

// Axis i of `out` is axis perm[i] of `from`.
void transpose(const Made& made, Span<const float> from, List<float>& out) {
  const Shape& shape = made.shape;
  const Shape& of = made.of[0].shape;
  const u32 rank = shape.rank;
  size_t strides[kMaxRank], at[kMaxRank] = {}, place = 0;
  for (u32 i = 0; i < rank; ++i) strides[i] = static_cast<size_t>(count_of(of, made.perm[i] + 1, rank));
  for (float& value : out) {
    value = from[place];
    for (u32 i = rank; i-- > 0;) {
      place += strides[i];
      if (++at[i] < shape.dims[i]) break;
      place -= strides[i] * at[i];
      at[i] = 0;
    }
  }
}

void winograd(Span<const float> from, List<float>& out) {
  const size_t pairs = from.count / 9;
  double both[36][9];
  for (size_t i = 0; i < 36; ++i) {
    for (size_t k = 0; k < 9; ++k) both[i][k] = kTaps[i / 6][k / 3] * kTaps[i % 6][k % 3];
  }
  for (size_t i = 0; i < 36; ++i) {
    for (size_t pair = 0; pair < pairs; ++pair) {
      double sum = 0;
      for (size_t k = 0; k < 9; ++k) sum += both[i][k] * static_cast<double>(from[k * pairs + pair]);
      out[i * pairs + pair] = static_cast<float>(sum);
    }
  }
}

// Calls visit(place in the panels, place in the rows, whether there is such a place) for each element of panels.
template <class Visit>
void each_of_panels(const Made& made, Visit visit) {
  const Shape& of = made.of[0].shape;
  const u32 last = of.rank - 1;
  const size_t k = of.dims[last - 1], n = of.dims[last] / made.halves, own = made.width / made.halves;
  const size_t batch = static_cast<size_t>(count_of(of, 0, last - 1)), count = made.shape.dims[last - 1];
  size_t to = 0;
  for (size_t b = 0; b < batch; ++b) {
    for (size_t panel = 0; panel < count; ++panel) {
      for (size_t row = 0; row < k; ++row) {
        for (size_t half = 0; half < made.halves; ++half) {
          for (size_t c = 0; c < own; ++c, ++to) {
            const size_t column = panel * own + c;
            visit(to, ((b * k + row) * made.halves + half) * n + column, column < n);
          }
        }
      }
    }
  }
}

template <class T>
void panels(const Made& made, Span<const T> from, List<T>& out) {
  each_of_panels(made, [&](size_t to, size_t at, bool inside) {
    out[to] = inside ? from[at] : static_cast<T>(made.fill);
  });
}

template <class T>
void pad(const Made& made, Span<const T> from, List<T>& out) {
  const size_t width = made.of[0].shape.dims[made.shape.rank - 1];
  for (size_t i = 0; i < from.count; ++i) out[i / width * made.columns + i % width] = from[i];
}

void pairs(Span<const u8> from, List<u8>& out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<u8>(from[2 * i] | from[2 * i + 1] << 4);
}
void pairs(Span<const float>, List<float>&) {}  // scales have none

void out_of_pairs(Span<const u8> stored, List<u8>& out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = i % 2 ? stored[i / 2] >> 4 : stored[i / 2] & 15;
}
void out_of_pairs(Span<const float>, List<float>&) {}

template <class T>
bool redone(const Made& made, const Made* step, const List<T>& numbers, List<T>& out, Error& error) {
  if (&made == step) return copy<T>(numbers.span(), out, error);
  List<T> of;
  if (!redone(made.of[0], step, numbers, of, error) || !sized(made.shape, out, error)) return false;
  if (made.op == MadeOp::pad) pad<T>(made, of.span(), out);
  if (made.op == MadeOp::panels) panels<T>(made, of.span(), out);
  if (made.op == MadeOp::pairs) pairs(of.span(), out);
  return true;
}

template <class T>
bool undone(const Made& made, const Made* step, Span<const T> stored, List<T>& out, Error& error) {
  if (&made == step) return copy<T>(stored, out, error);
  List<T> of;
  const Made& inner = made.of[0];
  if (!sized(inner.shape, of, error)) return false;
  if (made.op == MadeOp::pad) {
    const size_t width = inner.shape.dims[made.shape.rank - 1];
    for (size_t i = 0; i < of.size(); ++i) of[i] = stored[i / width * made.columns + i % width];
  }
  if (made.op == MadeOp::panels) {
    each_of_panels(made, [&](size_t from, size_t at, bool inside) {
      if (inside) of[at] = stored[from];
    });
  }
  if (made.op == MadeOp::pairs) out_of_pairs(stored, of);
  return undone<T>(inner, step, of.span(), out, error);
}

}  // namespace

bool values_of(const Made& made, const Leaves& leaves, List<float>& out, Error& error) {
  if (made.op == MadeOp::leaf) return leaves.values(leaves.user, made, out, error);
  if (made.op == MadeOp::reshape || made.op == MadeOp::scale) {
    if (!values_of(made.of[0], leaves, out, error)) return false;
    const auto by = static_cast<float>(made.by);
    for (size_t i = 0; made.op == MadeOp::scale && i < out.size(); ++i) out[i] *= by;
    return true;
  }
  List<float> of;
  if (made.op == MadeOp::concat) {
    if (!sized(made.shape, out, error)) return false;
    const size_t row = static_cast<size_t>(count_of(made.shape, made.axis, made.shape.rank));
    size_t begin = 0;
    for (const Made& part : made.of) {
      if (!values_of(part, leaves, of, error)) return false;
      const size_t own = static_cast<size_t>(count_of(part.shape, made.axis, part.shape.rank));
      for (size_t i = 0; i < of.size() / own; ++i) {
        memcpy(out.begin() + i * row + begin, of.begin() + i * own, own * sizeof(float));
      }
      begin += own;
    }
    return true;
  }
  if (!values_of(made.of[0], leaves, of, error) || !sized(made.shape, out, error)) return false;
  if (made.op == MadeOp::transpose) transpose(made, of.span(), out);
  if (made.op == MadeOp::winograd) winograd(of.span(), out);
  if (made.op == MadeOp::pad) pad<float>(made, of.span(), out);
  if (made.op == MadeOp::panels) panels<float>(made, of.span(), out);
  return true;
}

bool redo(const Made& made, const Made* step, const List<u8>& numbers, List<u8>& out, Error& error) {
  return redone(made, step, numbers, out, error);
}
bool redo(const Made& made, const Made* step, const List<float>& scales, List<float>& out, Error& error) {
  return redone(made, step, scales, out, error);
}
bool undo(const Made& made, const Made* step, Bytes stored, List<u8>& out, Error& error) {
  return undone<u8>(made, step, stored, out, error);
}
bool undo(const Made& made, const Made* step, Span<const float> stored, List<float>& out, Error& error) {
  return undone<float>(made, step, stored, out, error);
}

}  // namespace od
