// Heap sort: no memory, and no bad case that a hostile file could ask for. Values that are equal change places.
#pragma once

#include "base/base.h"

namespace od {

// `below(a, b)`: whether a belongs before b.
template <class T, class Below>
void sort(Span<T> values, Below below) {
  const auto swap = [&](size_t i, size_t j) {
    const T other = values[i];
    values[i] = values[j];
    values[j] = other;
  };
  const auto sift = [&](size_t root, size_t count) {
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
      if (child + 1 < count && below(values[child], values[child + 1])) ++child;
      if (!below(values[root], values[child])) return;
      swap(root, child);
    }
  };
  for (size_t i = values.count / 2; i-- > 0;) sift(i, values.count);
  for (size_t end = values.count; end-- > 1;) {
    swap(0, end);
    sift(0, end);
  }
}

}  // namespace od
