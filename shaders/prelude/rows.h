// Statistics of norms, over a row and over groups of channels.

// Of `cols` values from `start` on: the first of them (origin), their mean less it, and 1 / deviation (factor). The
// origin is taken off first, so that a mean far above the deviation costs no digits. Sums are kept for each block, then
// added: errors grow with the block, not with the row.
#define ROW_STATISTICS(x, start, cols, epsilon, origin, mean, factor)                                               \
  {                                                                                                                 \
    const int od_whole = cols - cols % V;                                                                           \
    float od_parts[V], od_sum = 0.0f, od_square = 0.0f;                                                             \
    vec od_sums = SPLAT(0.0f), od_squares = SPLAT(0.0f);                                                            \
    origin = LOAD(x, start);                                                                                        \
    for (int od_block = 0; od_block < od_whole; od_block += 64 * V) {                                               \
      vec od_part = SPLAT(0.0f);                                                                                    \
      for (int i = od_block; i < MIN(od_block + 64 * V, od_whole); i += V) od_part += LOADV(x, start + i) - origin; \
      od_sums += od_part;                                                                                           \
    }                                                                                                               \
    STOREP(od_parts, 0, od_sums);                                                                                   \
    for (int j = 0; j < V; j++) od_sum += od_parts[j];                                                              \
    for (int i = od_whole; i < cols; i++) od_sum += LOAD(x, start + i) - origin;                                    \
    mean = od_sum / (float)cols;                                                                                    \
    for (int od_block = 0; od_block < od_whole; od_block += 64 * V) {                                               \
      vec od_part = SPLAT(0.0f);                                                                                    \
      for (int i = od_block; i < MIN(od_block + 64 * V, od_whole); i += V) {                                        \
        const vec od_d = LOADV(x, start + i) - origin - mean;                                                       \
        od_part = FMA(od_d, od_d, od_part);                                                                         \
      }                                                                                                             \
      od_squares += od_part;                                                                                        \
    }                                                                                                               \
    STOREP(od_parts, 0, od_squares);                                                                                \
    for (int j = 0; j < V; j++) od_square += od_parts[j];                                                           \
    for (int i = od_whole; i < cols; i++) {                                                                         \
      const float od_d = LOAD(x, start + i) - origin - mean;                                                        \
      od_square = FMA(od_d, od_d, od_square);                                                                       \
    }                                                                                                               \
    factor = RSQRT(od_square / (float)cols + epsilon);                                                              \
  }

// Of channels `first` to `last`, the statistics of their groups from sums and squares of `count` pixels each, less an
// origin per channel: what is taken off a pixel less its origin (means), and 1 / deviation (gains).
#define GROUP_STATISTICS(first, last, per_group, count, sums, squares, origins, epsilon, means, gains)         \
  for (int od_g = first; od_g < last; od_g += per_group) {                                                     \
    float od_middle = 0.0f, od_spread = 0.0f; /* of the group, less its first channel's origin */              \
    for (int c = od_g; c < od_g + per_group; c++) od_middle += sums[c] / count + (origins[c] - origins[od_g]); \
    od_middle /= (float)per_group;                                                                             \
    for (int c = od_g; c < od_g + per_group; c++) {                                                            \
      const float od_off = origins[c] - origins[od_g] - od_middle;                                             \
      od_spread += squares[c] / count + od_off * (2.0f * (sums[c] / count) + od_off);                          \
    }                                                                                                          \
    const float od_factor = RSQRT(FMAX(od_spread / (float)per_group, 0.0f) + epsilon);                         \
    for (int c = od_g; c < od_g + per_group; c++) {                                                            \
      means[c] = od_middle - (origins[c] - origins[od_g]);                                                     \
      gains[c] = od_factor;                                                                                    \
    }                                                                                                          \
  }
