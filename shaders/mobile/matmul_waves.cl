//: op    = ["MatMul", "Linear"]
//: class = "mobile"
//: caps  = ["wave_constants"]
//: uses  = ["half", "image2d", "wave_constants"]
//: why   = """Work-items side by side have MR rows each of the same 16 columns, whose weights come 16 rows at a time to
//:         where all of them read one constant at no cost: a value of one's own is multiplied by a shared one."""
//: in    = [
//:   "a: tex[batch, m, k1]", "a2: tex[batch, m, k - k1]", "b: blocks[batch, ldb // 16 * k, 16]", "stage: stage[3072]",
//:   "bias: stg[ldb]", "gate: stg[batch, n]", "residual: stg[batch, m, n]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[batch, m, n]"]
//: args  = [
//:   "batch: int", "m: int", "n: int", "k: int", "k1: int", "ldb: int", "a_batch: int", "b_batch: int", "a_from: int",
//:   "y_from: int", "y_batch: int", "gate_from: int", "gate_row: int",
//: ]
//: grid  = ["X * ceil_div(m, X * MR)", "ldb // (V * NV)", "batch"]
//: group = ["X", "1", "1"]
//: tune  = {V = [4], NV = [4], NC = [4], MR = [2, 1], KB = [64, 16, 32, 128], X = [64, 32, 128]}
//: needs = {constant = {min = 1}, k = {multiple = 16}, k1 = {multiple = 16}}
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
#ifndef ACT_Geglu
#define ACT_Geglu 0
#endif

// Columns `from` to `to` of the left side, which are columns of `source` from `gone` on: whole blocks, for all
// work-items of the group alike.
#define PART_OF_K(source, from, to, gone, row4)                                                      \
  {                                                                                                  \
    real4 part[MR][NC];                                                                              \
    EACH_OF_TILE(i, v) part[i][v] = RSPLAT(0.0f);                                                    \
    for (int c = from; c < to; c += 16) {                                                            \
      STAGE_BLOCK(block, stage, b, (right + c) * 16, scales, PANEL_UNITS(panel, k, c))               \
      for (int r = 0; r < 16; r += 4) {                                                              \
        real4 left[MR];                                                                              \
        UNROLL                                                                                       \
        for (int i = 0; i < MR; i++) left[i] = LOADT(source, rows[i], (c + r - (gone)) / 4, row4);   \
        WAVE_PRODUCTS(part, left, block, r)                                                          \
      }                                                                                              \
    }                                                                                                \
    EACH_OF_TILE(i, v) sum[i][v] += TO_VEC(part[i][v]);                                              \
  }

WAVE_KERNEL
KERNEL(matmul_waves)(IN_TEX(a), IN_TEX(a2), IN_BLOCKS(b), IN_STAGE(stage), IN(stg, bias), IN(stg, gate),
                     IN(stg, residual), IN(scl, scales), OUT(stg, y), ARG(int, batch), ARG(int, m), ARG(int, n),
                     ARG(int, k), ARG(int, k1), ARG(int, ldb), ARG(int, a_batch), ARG(int, b_batch), ARG(int, a_from),
                     ARG(int, y_from), ARG(int, y_batch), ARG(int, gate_from), ARG(int, gate_row) GRID) {
  LOCAL(real4, block, 64);
  STAGE(block, stage)
  const int panel = GID(1), top = GID(0) / X * X * MR + LID(0), item = GID(2);
  const int right = item * (b_batch / 16) + panel * k;  // row of 16 in the weight

  int rows[MR];
  UNROLL  // rows past the end repeat the last one and are not stored
  for (int i = 0; i < MR; i++) rows[i] = a_from / k1 + item * (a_batch / k1) + MIN(top + i * X, m - 1);
  vec sum[MR][NC];
  EACH_OF_TILE(i, v) sum[i][v] = SPLAT(0.0f);
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

  STORE_ROWS(sum, top, X, 0)
}
