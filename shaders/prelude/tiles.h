// The inside of products that have MR rows by NC vectors of a panel's columns in registers: `part` is summed in `real`,
// over `kb` rows of the weight at most (BLOCK: of the `rows` from `row` on), and then goes to float sums. A panel is 4
// vectors of 4 columns wide; with GEGLU its first half are values, and its second half their gates.
#if HALF
#define OD_BLOCK(kb, rows) (kb)
#else
#define OD_BLOCK(kb, rows) (rows)                           // float has no need of parts
#endif
#if W4  // rows that share scales
#define BLOCK(kb, row, rows) MIN(OD_BLOCK(kb, rows), SCALE_ROWS - (row) % SCALE_ROWS)
#else
#define BLOCK(kb, row, rows) OD_BLOCK(kb, rows)
#endif
#if ACT_Geglu
#define TILE_SIDE       (NC / 2)
#define PANEL_VECTOR(first, v) ((v) < TILE_SIDE ? (first) + (v) : 2 + (first) + (v) - TILE_SIDE)
#else
#define TILE_SIDE       NC
#define PANEL_VECTOR(first, v) ((first) + (v))
#endif

#define EACH_OF_TILE(i, v) \
  UNROLL                   \
  for (int i = 0; i < MR; i++) \
    UNROLL                 \
    for (int v = 0; v < NC; v++)

// Where the scales of a panel's columns are, of k rows those that share them with `row`; and those of its column
// vectors from `first` on, which quantized values are multiplied by.
#if W4
#define PANEL_UNITS(panel, k, row) (((panel) * SCALE_BLOCKS(k) + (row) / SCALE_ROWS) * 16)
#else
#define PANEL_UNITS(panel, k, row) ((panel) * 16)
#endif
#if W4 || W8
#define PANEL_SCALES(units, scales, panel, k, row, first) \
  UNROLL                                                  \
  for (int od_v = 0; od_v < NC; od_v++)                   \
    units[od_v] = TO_REAL4(LOADSV(scales, PANEL_UNITS(panel, k, row) + PANEL_VECTOR(first, od_v) * 4));
#define OD_UNITS(values, units) ((values) * (units))
#else
#define PANEL_SCALES(units, scales, panel, k, row, first)
#define OD_UNITS(values, units) (values)
#endif

// Four rows of the weight, from row `at` of all panels' rows on, times four columns of `left` [MR].
#define OD_TILE_ROW(part, left, lane, b, at, first, units)                                                          \
  {                                                                                                                 \
    real4 od_right[NC];                                                                                             \
    UNROLL                                                                                                          \
    for (int od_v = 0; od_v < NC; od_v++)                                                                           \
      od_right[od_v] = OD_UNITS(                                                                                    \
        LOADWT(b, at, PANEL_VECTOR(first, od_v), 4), units[od_v]);                                                  \
    EACH_OF_TILE(od_i, od_w) part[od_i][od_w] = RFMA(left[od_i].lane, od_right[od_w], part[od_i][od_w]);            \
  }
#define TILE_PRODUCTS(part, left, b, at, first, units)            \
  OD_TILE_ROW(part, left, x, b, at, first, units)                 \
  OD_TILE_ROW(part, left, y, b, (at) + 1, first, units)           \
  OD_TILE_ROW(part, left, z, b, (at) + 2, first, units)           \
  OD_TILE_ROW(part, left, w, b, (at) + 3, first, units)

// A block of 16 rows of a panel into local memory, by a group of X: a quantized one is multiplied by its units once for
// all who read it.
#if W4 || W8
#define OD_BLOCK_UNITS(values, scales, at) ((values) * TO_REAL4(LOADSV(scales, at)))
#else
#define OD_BLOCK_UNITS(values, scales, at) (values)
#endif
#define OD_STAGE_LOCAL(block, b, from, scales, columns)                                              \
  {                                                                                                  \
    BARRIER(); /* nobody reads the block before any more */                                          \
    for (int od_i = LID(0); od_i < 64; od_i += X)                                                    \
      block[od_i] = OD_BLOCK_UNITS(LOADWR4(b, (from) + od_i * 4), scales, (columns) + od_i % 4 * 4); \
    BARRIER(); /* the block is there */                                                              \
  }
#define OD_WAVE_ROW(part, left, lane, block, row)                                                            \
  EACH_OF_TILE(od_i, od_v) part[od_i][od_v] = RFMA(left[od_i].lane, STAGED4(block, (row) * 4 + od_v), part[od_i][od_v]);
#define WAVE_PRODUCTS(part, left, block, row)      \
  OD_WAVE_ROW(part, left, x, block, row)           \
  OD_WAVE_ROW(part, left, y, block, (row) + 1)     \
  OD_WAVE_ROW(part, left, z, block, (row) + 2)     \
  OD_WAVE_ROW(part, left, w, block, (row) + 3)

// These words are of a kernel's own sizes: its arguments, `panel`, `item` and `pixels`.
//
// Of a convolution, whose rows are pixels `top`, `top + step` and so on: where the patch of each begins in the picture.
// Pixels past the end repeat the last one and are not stored.
#define TILE_PATCHES(oy, ox, top, step)                          \
  UNROLL                                                         \
  for (int od_i = 0; od_i < MR; od_i++) {                        \
    const int od_pixel = MIN((top) + od_i * (step), pixels - 1); \
    oy[od_i] = od_pixel / ow * stride - pad_top;                 \
    ox[od_i] = od_pixel % ow * stride - pad_left;                \
  }
// Under a tap: the pixel as it is stored, and whether there is one. up_h by up_w is the picture once repeated to its
// larger size (nearest neighbour); h by w as it is stored.
#define TILE_TAP(from, inside, oy, ox, tap)                                                          \
  UNROLL                                                                                             \
  for (int od_i = 0; od_i < MR; od_i++) {                                                            \
    const int od_y = oy[od_i] + (tap) / kw, od_x = ox[od_i] + (tap) % kw;                            \
    inside[od_i] = od_y >= 0 && od_y < up_h && od_x >= 0 && od_x < up_w;                             \
    const int od_at = (item * h + NEAREST(od_y, h, up_h)) * w + NEAREST(od_x, w, up_w);              \
    from[od_i] = inside[od_i] ? od_at : 0;                                                           \
  }
// Four neighbouring channels of each of them, zeros outside.
#define TILE_PIXELS(left, x, from, inside, column)   \
  UNROLL                                             \
  for (int od_i = 0; od_i < MR; od_i++) {            \
    left[od_i] = LOADT(x, from[od_i], column, ic / 4); \
    if (!inside[od_i]) left[od_i] = RSPLAT(0.0f);    \
  }

// Results of rows `top`, `top + step` and so on into [item, rows, columns], after all that is left to do: of a product,
// or of a convolution.
#define STORE_ROWS(sum, top, step, first)                                                            \
  UNROLL                                                                                             \
  for (int od_i = 0; od_i < MR; od_i++) {                                                            \
    const int od_row = (top) + od_i * (step);                                                        \
    if (od_row >= m) continue;                                                                       \
    UNROLL                                                                                           \
    for (int od_v = 0; od_v < TILE_SIDE; od_v++) {                                                   \
      const int od_at = panel * 16 + ((first) + od_v) * 4;                                           \
      const int od_col = ACT_Geglu ? panel * 8 + ((first) + od_v) * 4 : od_at;                       \
      if (od_col >= n) continue;                                                                     \
      const int od_out = y_from + item * y_batch + od_row * n + od_col;                              \
      const int od_times = gate_from + item * gate_row + od_col;                                     \
      vec od_z = sum[od_i][od_v], od_gate = sum[od_i][NC - TILE_SIDE + od_v];                        \
      ADD_BIAS(od_z, LOADV, od_at)                                                                   \
      ADD_BIAS(od_gate, LOADV, od_at + 8)                                                            \
      od_z = ACT_Geglu ? od_z * ACTIVATE(od_gate) : ACTIVATE(od_z);                                  \
      if (od_col + V <= n) {                                                                         \
        FINISH_ROW(od_z, LOADV, od_times, od_out)                                                    \
        STOREV(y, od_out, od_z);                                                                     \
        continue;                                                                                    \
      }                                                                                              \
      STORE_LANES(od_z, od_out, n - od_col, OD_REST_OF_ROW)                                          \
    }                                                                                                \
  }
#define OD_REST_OF_PIXEL(one, c) FINISH(one, LOAD, od_shift + c, od_out + c)
#define STORE_PIXELS(sum, top, step, first)                                                          \
  UNROLL                                                                                             \
  for (int od_i = 0; od_i < MR; od_i++) {                                                            \
    const int od_pixel = (top) + od_i * (step);                                                      \
    if (od_pixel >= pixels) continue;                                                                \
    UNROLL                                                                                           \
    for (int od_v = 0; od_v < NC; od_v++) {                                                          \
      const int od_col = panel * 16 + ((first) + od_v) * 4;                                          \
      if (od_col >= oc) continue;                                                                    \
      const int od_out = (item * pixels + od_pixel) * oc + od_col;                                   \
      const int od_shift = shift_from + item * shift_row + od_col;                                   \
      vec od_z = sum[od_i][od_v];                                                                    \
      ADD_BIAS(od_z, LOADV, od_col)                                                                  \
      if (od_col + V <= oc) {                                                                        \
        FINISH(od_z, LOADV, od_shift, od_out)                                                        \
        STOREV(y, od_out, od_z);                                                                     \
        continue;                                                                                    \
      }                                                                                              \
      STORE_LANES(od_z, od_out, oc - od_col, OD_REST_OF_PIXEL)                                       \
    }                                                                                                \
  }
