// Products of small matrices that LANES work-items, neighbours in the first dimension of their group, make together:
// `mat_sum` (MAT_M by MAT_N, float) += `mat_left` (MAT_M by MAT_K) times `mat_right` (MAT_K by MAT_N), both of `real`.
// They come from memory and go there by rows that are `stride` elements apart: from local memory, of `real`, or with
// _STG from storage; sums into local memory. Which work-item holds what is the spelling's business, so all LANES come
// to each word. A dialect's file spells them for a device's unit; here is plain C, for LANES of 1 to 64,
// a power of two.
#ifdef LANES
#ifndef MAT_M
#define MAT_M           8
#define MAT_N           8
#define MAT_K           8
// A work-item has OD_MAT_ROWS rows from OD_MAT_ROW on of sums and left, OD_MAT_COLS columns of sums and right, and
// OD_MAT_OWN of the terms of a sum: it gives OD_MAT_PRODUCT one element of each side at a time.
#define OD_MAT_ROWS     (LANES < 8 ? 8 / LANES : 1)
#define OD_MAT_COLS     (LANES < 8 ? 8 : 64 / LANES)
#define OD_MAT_ROW      (LID(0) % LANES * OD_MAT_ROWS * OD_MAT_COLS / 8)
#define OD_MAT_COL      (LID(0) % LANES * OD_MAT_COLS % 8)
#define OD_MAT_OWN      MAT_K
#define OD_MAT_OF_LEFT  0
#define OD_MAT_OF_RIGHT 0
#define OD_MAT_PRODUCT(a, b, sum) FMA((float)(a), (float)(b), sum)
#endif
#ifdef OD_MAT_ROWS
typedef struct { real own[OD_MAT_ROWS * OD_MAT_OWN]; } mat_left;
typedef struct { real own[OD_MAT_OWN * OD_MAT_COLS]; } mat_right;
typedef struct { float own[OD_MAT_ROWS * OD_MAT_COLS]; } mat_sum;
#define OD_MAT_EACH(i, rows, j, columns)  \
  UNROLL                                  \
  for (int i = 0; i < (rows); i++)        \
    UNROLL                                \
    for (int j = 0; j < (columns); j++)
#define OD_MAT_GET(tile, load, p, rows, row, columns, column, stride) \
  OD_MAT_EACH(od_i, rows, od_j, columns)                              \
  (tile).own[od_i * (columns) + od_j] = (real)load(p, ((row) + od_i) * (stride) + (column) + od_j);
#define OD_MAT_PLAIN(p, i) (p)[i]
#define OD_MAT_LEFT(tile, load, p, stride) \
  OD_MAT_GET(tile, load, p, OD_MAT_ROWS, OD_MAT_ROW, OD_MAT_OWN, OD_MAT_OF_LEFT, stride)
#define OD_MAT_RIGHT(tile, load, p, stride) \
  OD_MAT_GET(tile, load, p, OD_MAT_OWN, OD_MAT_OF_RIGHT, OD_MAT_COLS, OD_MAT_COL, stride)

#define MAT_ZERO(sum)   OD_MAT_EACH(od_i, OD_MAT_ROWS, od_j, OD_MAT_COLS)(sum).own[od_i * OD_MAT_COLS + od_j] = 0.0f;
#define MAT_LEFT(tile, p, stride) OD_MAT_LEFT(tile, OD_MAT_PLAIN, p, stride)
#define MAT_RIGHT(tile, p, stride) OD_MAT_RIGHT(tile, OD_MAT_PLAIN, p, stride)
#define MAT_LEFT_STG(tile, p, stride) OD_MAT_LEFT(tile, LOAD, p, stride)
#define MAT_RIGHT_STG(tile, p, stride) OD_MAT_RIGHT(tile, LOAD, p, stride)
#define MAT_MULTIPLY(sum, left, right)                                             \
  UNROLL                                                                           \
  for (int od_k = 0; od_k < OD_MAT_OWN; od_k++)                                    \
    OD_MAT_EACH(od_i, OD_MAT_ROWS, od_j, OD_MAT_COLS)                              \
    (sum).own[od_i * OD_MAT_COLS + od_j] =                                         \
      OD_MAT_PRODUCT((left).own[od_i * OD_MAT_OWN + od_k], (right).own[od_k * OD_MAT_COLS + od_j], \
                     (sum).own[od_i * OD_MAT_COLS + od_j]);
#define MAT_STORE(sum, p, stride)                   \
  OD_MAT_EACH(od_i, OD_MAT_ROWS, od_j, OD_MAT_COLS) \
  (p)[(OD_MAT_ROW + od_i) * (stride) + OD_MAT_COL + od_j] = (sum).own[od_i * OD_MAT_COLS + od_j];
#endif
#endif
