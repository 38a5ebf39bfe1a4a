// A vector of a constant weight. With W4 a column has a scale per SCALE_ROWS rows, so that values are scaled as they are
// read: `scales` are [ceil(rows / SCALE_ROWS), `step` columns] then, and `held` has those of the vectors that start at
// the columns `at`, from the first row of the SCALE_ROWS on. Without W4 there is nothing of this.
#define SCALE_ROWS      32
#define SCALE_BLOCKS(rows) (((rows) + SCALE_ROWS - 1) / SCALE_ROWS)
#if W4
#define HOLD_SCALES(held, vectors) vec held[vectors];
#define NEXT_SCALES(held, vectors, scales, row, step, at)               \
  if ((row) % SCALE_ROWS == 0) {                                        \
    UNROLL                                                              \
    for (int od_v = 0; od_v < (vectors); od_v++)                        \
      held[od_v] = LOADSV(scales, (row) / SCALE_ROWS * (step) + at[od_v]); \
  }
#define WEIGHT(p, i, scale) (LOADWV(p, i) * (scale))
#else
#define HOLD_SCALES(held, vectors)
#define NEXT_SCALES(held, vectors, scales, row, step, at)
#define WEIGHT(p, i, scale) LOADWV(p, i)
#endif
