//: op    = ["MatMul", "Linear"]
//: class = "portable"
//: caps  = []
//: why   = """Tiles of MR rows by NV vectors in registers; MB tiles one after another use the same columns of b. Bias,
//:         activation and residual as it stores."""
//: in    = [
//:   "a: stg[batch, m, k1]", "a2: stg[batch, m, k]", "b: wgt[batch, k, ldb]", "bias: stg[ldb]",
//:   "gate: stg[batch, n]", "residual: stg[batch, m, n]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[batch, m, n]"]
//: args  = ["batch: int", "m: int", "n: int", "k: int", "k1: int", "ldb: int", "a_batch: int", "b_batch: int",
//:          "a_from: int", "y_from: int", "y_batch: int", "gate_from: int", "gate_row: int"]
//: grid  = ["ceil_div(ldb, V * NV)", "ceil_div(m, MR * MB)", "batch"]
//: group = ["X", "Y", "1"]
//: tune.V = [16, 4, 8]
//: tune.NV = [4, 1, 2]
//: tune.MR = [6, 4, 8]
//: tune.MB = [16, 1, 2, 4, 8]
//: tune.KC = [128, 16, 64, 256]
//: tune.X = [1, 8, 16]
//: tune.Y = [1, 4, 8]
//: needs = {}
//: layout = {tune = ["V", "NV"], by = ["n", "k", "ACT_Geglu"], gives = ["ldb"]}
//: inplace = {residual = "n"}
//: reach.a = "a_from + (batch - 1) * a_batch + m * k1"
//: reach.a2 = "m * (k - k1)"
//: reach.b = "((batch - 1) * b_batch + k * ldb) // (1 + W4)"
//: reach.bias = "HAS_BIAS * ldb"
//: reach.gate = "HAS_GATE * (gate_from + (batch - 1) * gate_row + n)"
//: reach.residual = "HAS_ADD * (y_from + (batch - 1) * y_batch + m * n)"
//: reach.y = "y_from + (batch - 1) * y_batch + m * n"
//: reach.scales = "W8 * ldb + W4 * ceil_div(k, 32) * ldb"
//: holds = ["k1 <= k", "(1 + ACT_Geglu) * n <= ldb", "W8 * (b_batch % V) == 0", "W4 * b_batch == 0",
//:   "PANELS * ceil_div(n, V * (NV - NV // 2 * ACT_Geglu)) * V * (1 + ACT_Geglu) * (NV - NV // 2 * ACT_Geglu) <= ldb",
//:   "W8 + W4 <= PANELS"]

// GEGLU's gates stand n columns after its values: a work-item has SIDE vectors of each.
#if ACT_Geglu
#define SIDE ((NV + 1) / 2)
#define VECS (2 * SIDE)
#else
#define SIDE NV
#define VECS NV
#endif
// With PANELS, b is stored as work-items read it: the columns of one beside each other, its k rows one after another,
// zeros past the last.
#ifndef PANELS
#define PANELS 0
#endif
#if (W8 || W4) && !PANELS
#error "weights of few bits are stored in panels"
#endif
#if PANELS
#define STEP (V * VECS)
#else
#define STEP ldb
#endif
// Half is widened a vector at a time where vectors are wide; elsewhere a broadcast reads memory directly.
#define WIDEN (F16 && V > 4)
// Of long columns all tiles of a CPU's work-item use a part that stays near, then the next one; sums are kept between.
#define PART (V > 4 ? 1280 : k)
#define EACH_SUM UNROLL for (int i = 0; i < MR; i++) UNROLL for (int h = 0; h < VECS; h++)

KERNEL(matmul)(IN(stg, a), IN(stg, a2), IN(wgt, b), IN(stg, bias), IN(stg, gate), IN(stg, residual), IN(scl, scales),
               OUT(stg, y), ARG(int, batch), ARG(int, m), ARG(int, n), ARG(int, k), ARG(int, k1), ARG(int, ldb),
               ARG(int, a_batch), ARG(int, b_batch), ARG(int, a_from), ARG(int, y_from), ARG(int, y_batch),
               ARG(int, gate_from), ARG(int, gate_row) GRID) {
  const int col = GID(0) * V * SIDE, first = GID(1) * MR * MB, item = GID(2);
  if (col >= n || first >= m || item >= batch) return;
  const int y_item = y_from + item * y_batch, gate_item = gate_from + item * gate_row;
  IN_PTR(stg) left = a + (a_from + item * a_batch);
  IN_PTR(wgt) right = WGT_AT(b, item * b_batch);

#if PANELS
  right = WGT_AT(right, GID(0) * k * STEP);
  const int bias_from = GID(0) * STEP;
#else
  const int bias_from = 0, limit = VECS > SIDE ? n : ldb;
  if (limit < V) {  // too narrow for a vector
    for (int r = first; r < MIN(first + MR * MB, m); r++)
      for (int c = 0; c < n; c++) {
        float z = 0.0f, beside = 0.0f;
        for (int j = 0; j < k; j++) {
          const float x = j < k1 ? LOAD(left, r * k1 + j) : LOAD(a2, r * (k - k1) + j - k1);
          z = FMA(x, LOADW(right, j * ldb + c), z);
          if (VECS > SIDE) beside = FMA(x, LOADW(right, j * ldb + n + c), beside);
        }
        ADD_BIAS(z, LOAD, c)
        if (VECS > SIDE) { ADD_BIAS(beside, LOAD, n + c) }
        z = VECS > SIDE ? z * ACTIVATE(beside) : ACTIVATE(z);
        FINISH_ROW(z, LOAD, gate_item + c, y_item + r * n + c)
        STORE(y, y_item + r * n + c, z);
      }
    return;
  }
#endif

  // Columns of b, and of y. In rows of b a vector that would pass the last column moves back to end there, and computes
  // some a second time, to the same values (b may be padded to one vector, then y is narrower); in panels it finds
  // zeros there, which are not stored.
  int at[VECS], out_at[SIDE];
  UNROLL
  for (int h = 0; h < SIDE; h++) {
#if PANELS
    out_at[h] = col + h * V;
    at[h] = h * V;
    at[VECS - SIDE + h] = (VECS - SIDE + h) * V;
#else
    at[h] = out_at[h] = MIN(col + h * V, limit - V);
    at[VECS - SIDE + h] = VECS > SIDE ? n + at[h] : at[h];
#endif
  }

  vec kept[V > 4 ? MB * MR * VECS : 1];
#define KEPT(i, h) kept[(top - first + (i)) * VECS + (h)]
  for (int begin = 0, until; begin < k; begin = until) {
    until = MIN(begin + PART, k);
#if PANELS && V > 4
    // Where no other rows have read it, what comes next, at last the next work-item's panel, comes nearer while later
    // tiles are multiplied, some of it for each row of this one.
    const int pace = STEP / MAX(1, (MIN(MR * MB, m - first) - 1) / MR), ahead = m <= MR * MB;
    IN_PTR(wgt) next = WGT_AT(right, until * STEP);
#define NEXT(row) if (ahead && top > first) { PREFETCH(WGT_AT(next, (later + (row)) * pace)); }
#else
#define NEXT(row)
#endif

    for (int top = first; top < MIN(first + MR * MB, m); top += MR) {
      vec sum[MR][VECS];
      EACH_SUM sum[i][h] = V > 4 && begin > 0 ? KEPT(i, h) : SPLAT(0.0f);
      HOLD_SCALES(scale, VECS)
      int line = 0, later = ((top - first) / MR - 1) * (until - begin) - begin;

      for (int start = begin, depth; start < until; start += depth) {
        const int end = MIN(start < k1 ? k1 : k, until), part = start < k1 ? k1 : k - k1;
        IN_PTR(stg) source = start < k1 ? left + start : a2 + (start - k1);
        int from[MR];
        UNROLL
        // rows past the end repeat the last one and are not stored
        for (int i = 0; i < MR; i++) from[i] = MIN(top + i, m - 1) * part;
        depth = MIN(V > 4 ? WIDEN ? KC : 64 : k, end - start);
#if V > 4
        // No CPU foresees what stands rows apart: where this tile goes, what is added to it, and the next one's rows.
        // Of whole lines some come nearer at a time, as many at once are waited for.
        const int lines = WIDEN ? MR * SIDE : 2 * MR * SIDE * (start + depth - begin) / (k - begin);
        for (; line < (until < k ? 0 : MIN(MR * SIDE, lines)); line++) {
          const int out = y_item + (top + line / SIDE) * n + col + line % SIDE * V;
          PREFETCH(y + out);
#if HAS_ADD
          PREFETCH(OVERWRITTEN(residual, y) + out);
#endif
        }
        for (int i = 0; i < (col == 0 ? MR : 0); i++)
          for (int j = 0; j < depth; j += V) PREFETCH(source + from[i] + MR * part + j);
#endif
#if WIDEN
        float rows[MR * KC];
        UNROLL
        for (int i = 0; i < MR; i++) {
          int j = 0;
          for (; j + V <= depth; j += V) STOREP(rows, i * KC + j, LOADV(source, from[i] + j));
          for (; j < depth; j++) rows[i * KC + j] = LOAD(source, from[i] + j);
        }
#define LEFT(i, j) rows[(i) * KC + (j)]
#else
#define LEFT(i, j) LOAD(source, from[i] + (j))
#endif
        for (int j = 0; j < depth; j++) {
          NEXT(start + j)
          NEXT_SCALES(scale, VECS, scales + GID(0) * SCALE_BLOCKS(k) * STEP, start + j, STEP, at)
          vec values[VECS];
          UNROLL
          for (int h = 0; h < VECS; h++) values[h] = WEIGHT(right, (start + j) * STEP + at[h], scale[h]);
          EACH_SUM sum[i][h] = FMA(SPLAT(LEFT(i, j)), values[h], sum[i][h]);
        }
      }
      if (V > 4 && until < k) {
        EACH_SUM KEPT(i, h) = sum[i][h];
        continue;
      }

      UNROLL
      for (int i = 0; i < MR; i++) {
        if (top + i >= m) continue;
        UNROLL
        for (int h = 0; h < SIDE; h++)
          STORE_PRODUCT(sum[i][h], bias_from + at[h], sum[i][VECS - SIDE + h], bias_from + at[VECS - SIDE + h],
                        gate_item + out_at[h], y_item + (top + i) * n + out_at[h], n - out_at[h])
      }
    }
  }
}
