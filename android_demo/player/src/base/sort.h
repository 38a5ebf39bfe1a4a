// Sorting and looking up, without memory and without a bad case that a hostile file could ask for.
#pragma once

#include "base/base.h"

namespace od {

// Heap sort; values that are equal may change places. `below(a, b)`: whether a belongs before b.
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

// The value whose `order` is 0, of values that are sorted by it: below 0 for those before it. Null where there is none.
template <class T, class Order>
T* find_sorted(Span<T> values, Order order) {
  size_t low = 0, high = values.count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const int found = order(values[middle]);
    if (!found) return &values[middle];
    if (found < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return nullptr;
}

}  // namespace od
