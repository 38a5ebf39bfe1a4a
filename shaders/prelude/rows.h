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

// The same of R rows of whole vectors at once, on CPUs: a sum waits for itself, and others are added to meanwhile. Row r
// begins at `start[r]`, of x and of y. A value less the mean, over the deviation, is (value - centre) * factor + rest:
// origin and mean are one number here, and what it was rounded by is in `rest`. What is stored next, and the rows that
// are read next, are asked for meanwhile.
#define EACH_ROW(r) \
  UNROLL            \
  for (int r = 0; r < R; r++)
#define LANES_SUM(result, v)                                                  \
  {                                                                           \
    float od_lanes[V];                                                        \
    STOREP(od_lanes, 0, v);                                                   \
    UNROLL                                                                    \
    for (int od_half = V / 2; od_half > 0; od_half /= 2)                      \
      UNROLL                                                                  \
      for (int j = 0; j < od_half; j++) od_lanes[j] += od_lanes[j + od_half]; \
    result = od_lanes[0];                                                     \
  }
// Sums over R rows of `cols` values: `step` adds the values from i on of row r to part[r].
#define ROWS_SUM(sum, part, cols, step)                                                     \
  {                                                                                         \
    vec part[R], od_sums[R];                                                                \
    EACH_ROW(r) od_sums[r] = SPLAT(0.0f);                                                   \
    for (int od_block = 0; od_block < cols; od_block += 64 * V) {                           \
      EACH_ROW(r) part[r] = SPLAT(0.0f);                                                    \
      for (int i = od_block; i < MIN(od_block + 64 * V, cols); i += V) EACH_ROW(r) { step } \
      EACH_ROW(r) od_sums[r] += part[r];                                                    \
    }                                                                                       \
    EACH_ROW(r) LANES_SUM(sum[r], od_sums[r])                                               \
  }
#define ROWS_STATISTICS(x, y, start, cols, epsilon, centre, factor, rest)                   \
  {                                                                                         \
    float od_sum[R];                                                                        \
    EACH_ROW(r) centre[r] = LOAD(x, start[r]);                                              \
    ROWS_SUM(od_sum, od_part, cols, {                                                       \
      PREFETCH(y + start[r] + i);                                                           \
      od_part[r] += LOADV(x, start[r] + i) - centre[r];                                     \
    })                                                                                      \
    EACH_ROW(r) {                                                                           \
      const float od_origin = centre[r], od_mean = od_sum[r] / (float)cols;                 \
      centre[r] = od_origin + od_mean;                                                      \
      const float od_added = centre[r] - od_origin;                                         \
      rest[r] = (od_origin - (centre[r] - od_added)) + (od_mean - od_added);                \
    }                                                                                       \
    ROWS_SUM(od_sum, od_part, cols, {                                                       \
      PREFETCH(x + start[r] + R * cols + i);                                                \
      const vec od_d = LOADV(x, start[r] + i) - centre[r];                                  \
      od_part[r] = FMA(od_d, od_d, od_part[r]);                                             \
    })                                                                                      \
    EACH_ROW(r) {                                                                           \
      factor[r] = RSQRT(FMAX(od_sum[r] / (float)cols - rest[r] * rest[r], 0.0f) + epsilon); \
      rest[r] *= -factor[r];                                                                \
    }                                                                                       \
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

// Origin and mean of a vector of channels as one number, so that a pixel becomes (value - centre) * gain + shift. What
// their sum was rounded by goes into the shift: a mean far above the deviation costs no digits.
#define ONE_CENTRE(centre, origin, mean, gain, shift)                                                  \
  {                                                                                                    \
    centre = (origin) + (mean);                                                                        \
    const vec od_added = centre - (origin);                                                            \
    shift = FMA(((origin) - (centre - od_added)) + ((mean) - od_added), -gain, shift);                 \
  }

// Sums and squares of pixels, less `origin`, over a work-group whose X work-items stand in rows of VECS, one per vector
// of channels: this one's pixels are `first`, first + `step`... before `last`, and its channels are from `from` on,
// `row` elements per pixel. Work-items past the last whole row have none. `parts` is local memory of 8 X floats: the
// sum of channel c of the group's is then in parts[c], that of its squares in parts[4 * X + c]. RUN pixels are summed
// before they are added to the rest: errors grow with the run, not with the picture.
#define GROUP_PIXEL_SUMS(parts, from, row, first, last, step, origin)                       \
  {                                                                                         \
    vec od_sum = SPLAT(0.0f), od_square = SPLAT(0.0f);                                      \
    for (int od_start = first; od_start < (last); od_start += 64 * (step)) {                \
      vec od_some = SPLAT(0.0f), od_squares = SPLAT(0.0f);                                  \
      for (int od_p = od_start; od_p < MIN(od_start + 64 * (step), last); od_p += step) {   \
        const vec od_d = LOAD4(from, od_p * (row)) - origin;                                \
        od_some += od_d;                                                                    \
        od_squares = FMA(od_d, od_d, od_squares);                                           \
      }                                                                                     \
      od_sum += od_some;                                                                    \
      od_square += od_squares;                                                              \
    }                                                                                       \
    STOREP(parts, LID(0) * 4, od_sum);                                                      \
    STOREP(parts, (X + LID(0)) * 4, od_square);                                             \
    BARRIER(); /* every work-item's sums are there */                                       \
    for (int od_rows = X / VECS; od_rows > 1; od_rows = (od_rows + 1) / 2) {                \
      const int od_half = (od_rows + 1) / 2, od_other = LID(0) + od_half * VECS;            \
      if (LID(0) + od_half * VECS < od_rows * VECS) {                                       \
        STOREP(parts, LID(0) * 4, LOADP(parts, LID(0) * 4) + LOADP(parts, od_other * 4));   \
        STOREP(parts, (X + LID(0)) * 4, LOADP(parts, (X + LID(0)) * 4) + LOADP(parts, (X + od_other) * 4)); \
      }                                                                                     \
      BARRIER(); /* this level of the tree is done */                                       \
    }                                                                                       \
  }
