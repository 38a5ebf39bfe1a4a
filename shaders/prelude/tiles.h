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
