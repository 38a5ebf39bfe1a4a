//: op    = ["MatMul", "Linear"]
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16", "bf16x3"]
//: why   = """A strip of the left side becomes bf16 in scratch, once; for each panel of the weight DEPTH rows do, and
//:         blocks of 2 by 2 tiles of the strip use them from there."""
//: in    = [
//:   "a: stg[batch, m, k1]", "a2: stg[batch, m, k]", "b: wgt[batch, k, ldb]", "bias: stg[ldb]",
//:   "gate: stg[batch, n]", "residual: stg[batch, m, n]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[batch, m, n]", "scratch: f32[groups, slot]"]
//: args  = [
//:   "batch: int", "m: int", "n: int", "k: int", "k1: int", "ldb: int", "a_batch: int", "b_batch: int", "a_from: int",
//:   "y_from: int", "y_batch: int", "gate_from: int", "gate_row: int", "strip: int", "share: int", "groups: int",
//:   "slot: int",
//: ]
//: grid  = ["groups", "1", "1"]
//: group = ["1", "1", "1"]
//: tune.V = [16]
//: tune.NV = [2]
//: tune.DEPTH = [256, 128, 512, 1024]
//: needs.constant = {min = 1}
//: needs.rows = {min = 16}
//: layout = {tune = ["V", "NV"], by = ["n", "k", "ACT_Geglu"], gives = ["ldb", "strip", "share", "groups", "slot"]}
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
//:   "k1 <= k", "(1 - SPLIT) * k <= k1", "ldb % (V * NV) == 0", "W4 * b_batch == 0", "W8 * (b_batch % V) == 0",
//:   "ceil_div(n, V * (NV - NV // 2 * ACT_Geglu)) * V * NV <= ldb", "W8 + W4 <= 1", "1 <= strip", "1 <= share",
//:   "(strip + 32) * (V * NV + (1 + MATH_bf16x3) * (ceil_div(k, 32) + 1) * 16) + (1 + MATH_bf16x3) * DEPTH // 2 * V * NV <= slot",
//:   "m + strip < 2147483648", "ldb + share < 2147483648",
//:   "batch * ceil_div(m, strip) * ceil_div(ldb // (V * NV), share) + groups < 2147483648",
//: ]

// Whether the left side is in two parts.
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef ACT_Geglu
#define ACT_Geglu 0
#endif
#define WIDE (V * NV)  // columns of a panel, as many as a block has; with GEGLU half of them are values, half gates
#define SIDE (ACT_Geglu ? NV / 2 : NV)
#define SLACK 32  // rows of scratch past the last one: no block has more
#define PACE 16  // pairs that are whole steps of every unit

KERNEL(matmul_bf16)(IN(stg, a), IN(stg, a2), IN(wgt, b), IN(stg, bias), IN(stg, gate), IN(stg, residual),
                    IN(scl, scales), OUT(stg, y), OUT(float, scratch), ARG(int, batch), ARG(int, m), ARG(int, n),
                    ARG(int, k), ARG(int, k1), ARG(int, ldb), ARG(int, a_batch), ARG(int, b_batch), ARG(int, a_from),
                    ARG(int, y_from), ARG(int, y_batch), ARG(int, gate_from), ARG(int, gate_row), ARG(int, strip),
                    ARG(int, share), ARG(int, groups), ARG(int, slot) GRID) {
  if (GID(0) >= groups) return;
  // Elements between rows of the left side: whole tiles, and a line of cache, as powers of two share few sets of one.
  const int row = (k + 31) / 32 * 16 + 16, left_low = (strip + SLACK) * row, right_low = DEPTH / 2 * WIDE;
  const int panels = ldb / WIDE, chunks = (panels + share - 1) / share, strips = (m + strip - 1) / strip;
  OUT_PTR(float) sums = scratch + GID(0) * slot;
  OUT_PTR(uint) right = (OUT_PTR(uint))(sums + (strip + SLACK) * WIDE);
  OUT_PTR(uint) left = right + MAT_PARTS * right_low;
  MAT_BEGIN

  for (int task = GID(0); task < batch * strips * chunks; task += groups) {
    const int item = task / chunks / strips, top = task / chunks % strips * strip, count = MIN(strip, m - top);
    for (int i = 0; i < count; i++) {
      IN_PTR(stg) first = a + (a_from + item * a_batch + (top + i) * k1);
      IN_PTR(stg) second = a2 + (SPLIT ? (top + i) * (k - k1) : 0);
      for (int j = 0; j < row * 2 - 32; j += V) {
        vec some;
        if (j + V <= k1) some = LOADV(first, j);
        else if (SPLIT && j >= k1 && j + V <= k) some = LOADV(second, j - k1);
        else {  // the end of a part, and zeros past the last
          float line[V];
          for (int c = 0; c < V; c++)
            line[c] = j + c < k1 ? LOAD(first, j + c) : SPLIT && j + c < k ? LOAD(second, j + c - k1) : 0.0f;
          some = LOADP(line, 0);
        }
        STORE_PAIRS(left, left_low, i * row + j / 2, some)
      }
    }

    for (int panel = task % chunks * share; panel < MIN(task % chunks * share + share, panels); panel++) {
      IN_PTR(wgt) given = WGT_AT(b, item * b_batch + panel * k * WIDE);
      for (int start = 0; start < k; start += DEPTH) {
        const int depth = MIN(DEPTH, k - start), pairs = (depth + MAT_K - 1) / MAT_K * (MAT_K / 2);
#define COLUMNS(j, v) WEIGHT(given, (start + (j)) * WIDE + (v) * V, UNITS(start + (j), v))
#define UNITS(j, v) LOADSV(scales, (panel * SCALE_BLOCKS(k) + (j) / SCALE_ROWS) * WIDE + (v) * V)
        for (int j = 0; j < depth / 2; j++)
          for (int v = 0; v < NV; v++)
            STORE_PAIRED(right, right_low, j * WIDE + v * V, COLUMNS(2 * j, v), COLUMNS(2 * j + 1, v))
        for (int j = depth / 2; j < pairs; j++)
          for (int v = 0; v < NV; v++) {
            vec last = SPLAT(0.0f);
            if (2 * j < depth) last = COLUMNS(2 * j, v);
            STORE_PAIRED(right, right_low, j * WIDE + v * V, last, SPLAT(0.0f))
          }

        // What becomes pairs next comes nearer meanwhile, a part of its lines in each block, between PACE pairs and the
        // next ones: addresses of 12 rows leave no register for one more in the innermost loop.
        IN_PTR(wgt) next = WGT_AT(given, (start + DEPTH) * WIDE);
        const int ahead = (count + BLOCK_M - 1) / BLOCK_M * V;
        for (int block = 0; block < count; block += BLOCK_M) {
          OUT_PTR(float) sum = sums + block * WIDE;
          OUT_PTR(uint) lines = left + (block * row + start / 2);
          if (start > 0) { BLOCK_LOAD(sum, WIDE) }
          else { BLOCK_ZERO }
          for (int some = 0; some < pairs; some += PACE) {
            for (int at = block / BLOCK_M * V; at < 2 * PACE * WIDE; at += ahead)
              PREFETCH(WGT_AT(next, some * 2 * WIDE + at));
            for (int j = some; j < MIN(some + PACE, pairs); j += MAT_K / 2) {
              BLOCK_MULTIPLY(lines + j, row, left_low, right + j * WIDE, WIDE, right_low)
            }
          }
          BLOCK_STORE(sum, WIDE)
        }
      }

      for (int i = 0; i < count; i++)
        for (int v = 0; v < SIDE; v++) {
          const int at = panel * WIDE + v * V, col = panel * SIDE * V + v * V;
          const int out = y_from + item * y_batch + (top + i) * n + col;
          const int gate_at = gate_from + item * gate_row + col;
          if (col >= n) continue;
          STORE_PRODUCT(LOADP(sums, i * WIDE + v * V), at, LOADP(sums, i * WIDE + (SIDE + v) * V), at + SIDE * V,
                        gate_at, out, n - col)
        }
    }
  }
  MAT_END
}
