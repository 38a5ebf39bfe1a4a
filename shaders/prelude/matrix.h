// Products of small matrices: `mat_sum` (MAT_M by MAT_N, float) += `mat_left` (MAT_M by MAT_K) times `mat_right` (MAT_K
// by MAT_N). A dialect's file spells the words for a device's unit; here is plain C.
//
// On GPUs LANES work-items, neighbours in the first dimension of their group, make one together. Both sides are of
// `real`. They come from memory and sums go there by rows that are `stride` elements apart: from local memory, of `real`,
// or with _STG from storage; sums into local memory. Which work-item holds what is the spelling's business, so all LANES
// come to each word. Plain C is for LANES of 1 to 64, a power of two.
//
// On CPUs, in kernels of a `math` other than fp32, a work-item makes one alone. Both sides are of bf16, in memory of the
// work-item's own as `uint`: two neighbours of the summed dimension, the first in the low bits. So a row of the left side
// has MAT_K / 2 of them, and row i of the right side the terms 2 i and 2 i + 1 of MAT_N columns; `stride` counts them.
// Tiles have names: MAT_BEGIN declares left0, left1, right0, right1 and sum0 to sum3, MAT_END gives them back.
#define MAT_PAIRS (MATH_bf16 || MATH_bf16x3)
#if MAT_PAIRS && !defined(MAT_M)
#ifndef OD_MAT_M
#define OD_MAT_M        6
#define OD_MAT_K        2
#endif
#define MAT_M           OD_MAT_M
#define MAT_N           16
#define MAT_K           OD_MAT_K
#define OD_MAT_TERM     uint
#define OD_MAT_UNROLL                                       // sums are many: they stay in the nearest cache
#define OD_MAT_ROWS     MAT_M
#define OD_MAT_COLS     MAT_N
#define OD_MAT_ROW      0
#define OD_MAT_COL      0
#define OD_MAT_OWN      (MAT_K / 2)
#define OD_MAT_OF_LEFT  0
#define OD_MAT_OF_RIGHT 0
#define OD_MAT_PRODUCT(a, b, sum) FMA(OD_SECOND(a), OD_SECOND(b), FMA(OD_FIRST(a), OD_FIRST(b), sum))
#endif
#if defined(LANES) && !defined(MAT_M)
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
#ifndef OD_MAT_TERM
#define OD_MAT_TERM     real
#define OD_MAT_UNROLL   UNROLL
#endif
#ifdef OD_MAT_ROWS
typedef struct { OD_MAT_TERM own[OD_MAT_ROWS * OD_MAT_OWN]; } mat_left;
typedef struct { OD_MAT_TERM own[OD_MAT_OWN * OD_MAT_COLS]; } mat_right;
typedef struct { float own[OD_MAT_ROWS * OD_MAT_COLS]; } mat_sum;
#define OD_MAT_EACH(i, rows, j, columns)  \
  OD_MAT_UNROLL                           \
  for (int i = 0; i < (rows); i++)        \
    OD_MAT_UNROLL                         \
    for (int j = 0; j < (columns); j++)
#define OD_MAT_GET(tile, load, p, rows, row, columns, column, stride) \
  OD_MAT_EACH(od_i, rows, od_j, columns)                              \
  (tile).own[od_i * (columns) + od_j] = (OD_MAT_TERM)load(p, ((row) + od_i) * (stride) + (column) + od_j);
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
  OD_MAT_UNROLL                                                                    \
  for (int od_k = 0; od_k < OD_MAT_OWN; od_k++)                                    \
    OD_MAT_EACH(od_i, OD_MAT_ROWS, od_j, OD_MAT_COLS)                              \
    (sum).own[od_i * OD_MAT_COLS + od_j] =                                         \
      OD_MAT_PRODUCT((left).own[od_i * OD_MAT_OWN + od_k], (right).own[od_k * OD_MAT_COLS + od_j], \
                     (sum).own[od_i * OD_MAT_COLS + od_j]);
#define MAT_LOAD(sum, p, stride)                    \
  OD_MAT_EACH(od_i, OD_MAT_ROWS, od_j, OD_MAT_COLS) \
  (sum).own[od_i * OD_MAT_COLS + od_j] = (p)[(OD_MAT_ROW + od_i) * (stride) + OD_MAT_COL + od_j];
#define MAT_STORE(sum, p, stride)                   \
  OD_MAT_EACH(od_i, OD_MAT_ROWS, od_j, OD_MAT_COLS) \
  (p)[(OD_MAT_ROW + od_i) * (stride) + OD_MAT_COL + od_j] = (sum).own[od_i * OD_MAT_COLS + od_j];
#endif

#if MAT_PAIRS
#ifndef MAT_BEGIN
#define MAT_BEGIN       mat_left left0, left1; mat_right right0, right1; mat_sum sum0, sum1, sum2, sum3;
#define MAT_END
#endif
// A block of two by two tiles: BLOCK_M rows, BLOCK_N columns, MAT_K terms at a time. With bf16x3 a value is the sum of
// two of bf16: the low ones lie `left_low` and `right_low` elements after the high ones, and the products of these with
// each other, too small to matter, are left out.
#define BLOCK_M         (2 * MAT_M)
#define BLOCK_N         (2 * MAT_N)
#define BLOCK_ZERO      MAT_ZERO(sum0) MAT_ZERO(sum1) MAT_ZERO(sum2) MAT_ZERO(sum3)
#define OD_BLOCK_SUMS(word, p, stride)                                                                \
  word(sum0, p, stride)                                                                               \
  word(sum1, (p) + MAT_N, stride)                                                                     \
  word(sum2, (p) + MAT_M * (stride), stride)                                                          \
  word(sum3, (p) + MAT_M * (stride) + MAT_N, stride)
#define BLOCK_LOAD(p, stride) OD_BLOCK_SUMS(MAT_LOAD, p, stride)
#define BLOCK_STORE(p, stride) OD_BLOCK_SUMS(MAT_STORE, p, stride)
#define OD_BLOCK_ROW(tile, sum, sum_beside, left, left_stride)                                        \
  MAT_LEFT(tile, left, left_stride)                                                                   \
  MAT_MULTIPLY(sum, tile, right0)                                                                     \
  MAT_MULTIPLY(sum_beside, tile, right1)
#define OD_BLOCK_LEFTS(left, left_stride)                                                             \
  OD_BLOCK_ROW(left0, sum0, sum1, left, left_stride)                                                  \
  OD_BLOCK_ROW(left1, sum2, sum3, (left) + MAT_M * (left_stride), left_stride)
#define OD_BLOCK_COLUMN(tile, sum, sum_below, right, right_stride)                                    \
  MAT_RIGHT(tile, right, right_stride)                                                                \
  MAT_MULTIPLY(sum, left0, tile)                                                                      \
  MAT_MULTIPLY(sum_below, left1, tile)
#if MATH_bf16x3
#define MAT_PARTS       2                                   // values of bf16 that one is kept as
#define BLOCK_MULTIPLY(left, left_stride, left_low, right, right_stride, right_low)                   \
  MAT_RIGHT(right0, right, right_stride)                                                              \
  MAT_RIGHT(right1, (right) + MAT_N, right_stride)                                                    \
  OD_BLOCK_LEFTS((left) + (left_low), left_stride)                                                    \
  OD_BLOCK_LEFTS(left, left_stride)                                                                   \
  OD_BLOCK_COLUMN(right0, sum0, sum2, (right) + (right_low), right_stride)                            \
  OD_BLOCK_COLUMN(right1, sum1, sum3, (right) + (right_low) + MAT_N, right_stride)
#else
#define MAT_PARTS       1
#define BLOCK_MULTIPLY(left, left_stride, left_low, right, right_stride, right_low)                   \
  MAT_RIGHT(right0, right, right_stride)                                                              \
  MAT_RIGHT(right1, (right) + MAT_N, right_stride)                                                    \
  OD_BLOCK_LEFTS(left, left_stride)
#endif

// The same rows by MAT_N columns, where there are no more.
#define SLIM_ZERO       MAT_ZERO(sum0) MAT_ZERO(sum2)
#define OD_SLIM_SUMS(word, p, stride) word(sum0, p, stride) word(sum2, (p) + MAT_M * (stride), stride)
#define SLIM_LOAD(p, stride) OD_SLIM_SUMS(MAT_LOAD, p, stride)
#define SLIM_STORE(p, stride) OD_SLIM_SUMS(MAT_STORE, p, stride)
#define OD_SLIM_LEFTS(left, left_stride)                                                              \
  MAT_LEFT(left0, left, left_stride)                                                                  \
  MAT_MULTIPLY(sum0, left0, right0)                                                                   \
  MAT_LEFT(left1, (left) + MAT_M * (left_stride), left_stride)                                        \
  MAT_MULTIPLY(sum2, left1, right0)
#if MATH_bf16x3
#define SLIM_MULTIPLY(left, left_stride, left_low, right, right_stride, right_low)                    \
  MAT_RIGHT(right0, right, right_stride)                                                              \
  OD_SLIM_LEFTS((left) + (left_low), left_stride)                                                     \
  OD_SLIM_LEFTS(left, left_stride)                                                                    \
  OD_BLOCK_COLUMN(right0, sum0, sum2, (right) + (right_low), right_stride)
#else
#define SLIM_MULTIPLY(left, left_stride, left_low, right, right_stride, right_low)                    \
  MAT_RIGHT(right0, right, right_stride)                                                              \
  OD_SLIM_LEFTS(left, left_stride)
#endif

// Floats as bf16, rounded to nearest, ties to even; a NaN stays one. The bits of a float that is the rounded value, and
// then some; the two values of a pair as floats.
static inline uint od_rounded(float v) {
  const uint bits = AS_UINT(v);
  return v != v ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
}
#define OD_FIRST(pair)  AS_FLOAT((uint)(pair) << 16)
#define OD_SECOND(pair) AS_FLOAT((uint)(pair) & 0xffff0000u)
#define PAIR(first, second) (od_rounded(first) >> 16 | (od_rounded(second) & 0xffff0000u))
// What rounding took away; nothing of what is infinite, or became so.
static inline float od_rest(float v) {
  const float rest = v - AS_FLOAT(od_rounded(v) & 0xffff0000u);
  return rest - rest == 0.0f ? rest : 0.0f;
}
// STORE_PAIRS: V neighbours of a row of the left side become V / 2 pairs from p[i] on. STORE_PAIRED: V columns of two
// neighbouring rows of the right side become V pairs there. With bf16x3 what rounding takes away goes `low` elements on.
#ifndef OD_STORE_PAIRS
#define OD_STORE_PAIRS(p, i, v)                                                                       \
  {                                                                                                   \
    float od_values[V];                                                                               \
    STOREP(od_values, 0, v);                                                                          \
    for (int od_c = 0; od_c < V / 2; od_c++) (p)[(i) + od_c] = PAIR(od_values[2 * od_c], od_values[2 * od_c + 1]); \
  }
#define OD_STORE_PAIRED(p, i, v, w)                                                                   \
  {                                                                                                   \
    float od_values[V], od_below[V];                                                                  \
    STOREP(od_values, 0, v);                                                                          \
    STOREP(od_below, 0, w);                                                                           \
    for (int od_c = 0; od_c < V; od_c++) (p)[(i) + od_c] = PAIR(od_values[od_c], od_below[od_c]);     \
  }
static inline vec od_rests(vec v) {
  float values[V];
  STOREP(values, 0, v);
  for (int c = 0; c < V; c++) values[c] = od_rest(values[c]);
  return LOADP(values, 0);
}
#endif
#ifndef STORE_PAIRS_ON
#define STORE_PAIRS_ON(p, i, v, w)          \
  {                                         \
    OD_STORE_PAIRS(p, i, v)                 \
    OD_STORE_PAIRS(p, (i) + V / 2, w)       \
  }
#endif
#if MATH_bf16x3
#define STORE_PAIRS(p, low, i, v)                                                                     \
  {                                                                                                   \
    const vec od_v = v;                                                                               \
    OD_STORE_PAIRS(p, i, od_v)                                                                        \
    OD_STORE_PAIRS(p, (low) + (i), od_rests(od_v))                                                    \
  }
#define STORE_PAIRED(p, low, i, v, w)                                                                 \
  {                                                                                                   \
    const vec od_v = v, od_w = w;                                                                     \
    OD_STORE_PAIRED(p, i, od_v, od_w)                                                                 \
    OD_STORE_PAIRED(p, (low) + (i), od_rests(od_v), od_rests(od_w))                                   \
  }
#else
#define STORE_PAIRS(p, low, i, v) OD_STORE_PAIRS(p, i, v)
#define STORE_PAIRED(p, low, i, v, w) OD_STORE_PAIRED(p, i, v, w)
#endif
#endif
