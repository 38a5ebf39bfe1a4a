//: op    = ["MatMul", "Linear"]
//: class = "mobile"
//: caps  = []
//: uses  = ["half", "image2d"]
//: why   = """MR rows by NC vectors of columns in registers; both sides are read four values at a time, through images
//:         where the device has a cache for them; neighbours share rows of the weight. Sums of KB products are half,
//:         then float."""
//: in    = [
//:   "a: tex[batch, m, k1]", "a2: tex[batch, m, k - k1]", "b: wtex[batch, ldb // 16 * k, 16]", "bias: stg[ldb]",
//:   "gate: stg[batch, n]", "residual: stg[batch, m, n]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[batch, m, n]"]
//: args  = [
//:   "batch: int", "m: int", "n: int", "k: int", "k1: int", "ldb: int", "a_batch: int", "b_batch: int", "a_from: int",
//:   "y_from: int", "y_batch: int", "gate_from: int", "gate_row: int",
//: ]
//: grid  = ["ldb // (V * NC)", "ceil_div(m, MR)", "batch"]
//: group = ["X", "Y", "1"]
//: tune.V = [4]
//: tune.NV = [4]
//: tune.NC = [4, 2]
//: tune.MR = [4, 1, 2, 8]
//: tune.KB = [32, 16, 64, 128]
//: tune.X = [4, 1, 8, 16]
//: tune.Y = [16, 1, 4, 8]
//: needs = {constant = {min = 1}, k = {multiple = 4}, k1 = {multiple = 4}}
//: layout = {tune = ["V", "NV"], by = ["n", "k", "ACT_Geglu"], gives = ["ldb"]}
//: inplace = {residual = ""}
//: reach.a = "a_from + (batch - 1) * a_batch + m * k1"
//: reach.a2 = "SPLIT * m * (k - k1)"
//: reach.b = "((batch - 1) * b_batch + k * ldb) // (1 + W4)"
//: reach.bias = "HAS_BIAS * ldb"
//: reach.gate = "HAS_GATE * (gate_from + (batch - 1) * gate_row + n)"
//: reach.residual = "HAS_ADD * (y_from + (batch - 1) * y_batch + m * n)"
//: reach.y = "y_from + (batch - 1) * y_batch + m * n"
//: reach.scales = "W8 * ldb + W4 * ceil_div(k, 32) * ldb"
//: holds = [
//:   "k1 <= k", "(1 - SPLIT) * k <= k1", "(1 + ACT_Geglu) * n <= ldb", "ldb % 16 == 0", "b_batch % 16 == 0",
//:   "a_batch % k1 == 0", "a_from % k1 == 0", "W4 * b_batch == 0", "W8 + W4 <= 1",
//: ]

// Whether the left side is in two parts.
#ifndef SPLIT
#define SPLIT 0
#endif
#define PARTS (NV / NC)  // work-items per panel
#ifndef ACT_Geglu
#define ACT_Geglu 0
#endif

// Columns `from` to `to` of the left side, which are columns of `source` from `gone` on.
#define PART_OF_K(source, from, to, gone, row4)                                                  \
  {                                                                                              \
    real4 part[MR][NC];                                                                          \
    EACH_OF_TILE(i, v) part[i][v] = RSPLAT(0.0f);                                                \
    PANEL_SCALES(units, scales, panel, k, from, first)                                           \
    for (int c = from; c < to; c += 4) {                                                         \
      real4 left[MR];                                                                            \
      UNROLL                                                                                     \
      for (int i = 0; i < MR; i++) left[i] = LOADT(source, rows[i], (c - (gone)) / 4, row4);     \
      TILE_PRODUCTS(part, left, b, right + c, first, units)                                      \
    }                                                                                            \
    EACH_OF_TILE(i, v) sum[i][v] += TO_VEC(part[i][v]);                                          \
  }

KERNEL(matmul_tiles)(IN_TEX(a), IN_TEX(a2), IN_WTEX(b), IN(stg, bias), IN(stg, gate), IN(stg, residual),
                     IN(scl, scales), OUT(stg, y), ARG(int, batch), ARG(int, m), ARG(int, n), ARG(int, k), ARG(int, k1),
                     ARG(int, ldb), ARG(int, a_batch), ARG(int, b_batch), ARG(int, a_from), ARG(int, y_from),
                     ARG(int, y_batch), ARG(int, gate_from), ARG(int, gate_row) GRID) {
  const int panel = GID(0) / PARTS, first = GID(0) % PARTS * TILE_SIDE, top = GID(1) * MR, item = GID(2);
  if (panel * (ACT_Geglu ? 8 : 16) + first * 4 >= n || top >= m || item >= batch) return;
  const int right = item * (b_batch / 16) + panel * k;  // row of 16 in the weight

  int rows[MR];
  UNROLL  // rows past the end repeat the last one and are not stored
  for (int i = 0; i < MR; i++) rows[i] = a_from / k1 + item * (a_batch / k1) + MIN(top + i, m - 1);
  vec sum[MR][NC];
  EACH_OF_TILE(i, v) sum[i][v] = SPLAT(0.0f);
  real4 units[NC];
  for (int j = 0, end; j < k1; j = end) {
    end = MIN(j + BLOCK(KB, j, k1), k1);
    PART_OF_K(a, j, end, 0, k1 / 4)
  }
#if SPLIT
  for (int j = k1, end; j < k; j = end) {
    end = MIN(j + BLOCK(KB, j, k), k);
    PART_OF_K(a2, j, end, k1, (k - k1) / 4)
  }
#endif

  STORE_ROWS(sum, top, 1, first)
}
