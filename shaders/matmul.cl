//: op    = ["MatMul", "Linear"]
//: why   = "Tiles of MR rows by NV vectors in registers; MB tiles share each block of KC rows of b, which stays in the nearest cache. Bias, activation and residual as it stores."
//: in    = ["a: stg[batch, m, k1]", "a2: stg[batch, m, k]", "b: stg[batch, k, ldb]", "bias: stg[ldb]", "residual: stg[batch, m, n]"]
//: out   = ["y: stg[batch, m, n]"]
//: args  = ["batch: int", "m: int", "n: int", "k: int", "k1: int", "ldb: int", "a_batch: int", "b_batch: int"]
//: grid  = ["ceil_div(ldb, V * NV)", "ceil_div(m, MR * MB)", "batch"]
//: group = ["X", "Y", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], MR = [6, 4, 8], MB = [8, 1, 2, 4, 16], KC = [128, 16, 64, 256], X = [1, 8, 16], Y = [1, 4, 8]}
//: needs = {}

// GEGLU's gates stand n columns after its values: a work-item has SIDE vectors of each.
#if ACT_Geglu
#define SIDE ((NV + 1) / 2)
#define VECS (2 * SIDE)
#else
#define SIDE NV
#define VECS NV
#endif

KERNEL(matmul)(IN(stg, a), IN(stg, a2), IN(stg, b), IN(stg, bias), IN(stg, residual), OUT(stg, y), ARG(int, batch), ARG(int, m),
               ARG(int, n), ARG(int, k), ARG(int, k1), ARG(int, ldb), ARG(int, a_batch), ARG(int, b_batch) GRID) {
  const int col = GID(0) * V * SIDE, first = GID(1) * MR * MB, item = GID(2);
  if (col >= n || first >= m || item >= batch) return;
  const int tiles = (MIN(MR * MB, m - first) + MR - 1) / MR, y_item = item * m * n;
  IN_PTR(stg) left = a + item * a_batch;
  IN_PTR(stg) right = b + item * b_batch;

  if (ldb < V || (VECS > SIDE && n < V)) {  // too narrow for a vector
    for (int r = first; r < MIN(first + MR * MB, m); r++)
      for (int c = 0; c < n; c++) {
        float z = 0.0f, gate = 0.0f;
        for (int j = 0; j < k; j++) {
          const float x = j < k1 ? LOAD(left, r * k1 + j) : LOAD(a2, r * (k - k1) + j - k1);
          z = FMA(x, LOAD(right, j * ldb + c), z);
          if (VECS > SIDE) gate = FMA(x, LOAD(right, j * ldb + n + c), gate);
        }
#if HAS_BIAS
        z += LOAD(bias, c);
        if (VECS > SIDE) gate += LOAD(bias, n + c);
#endif
        z = VECS > SIDE ? z * ACTIVATE(gate) : ACTIVATE(z);
#if HAS_ADD
        z += LOAD(residual, y_item + r * n + c);
#endif
        STORE(y, y_item + r * n + c, z);
      }
    return;
  }

  // A vector that would pass the last column moves back to end there: it computes some columns a second time, to the same values.
  // Only where b was padded to one vector is y narrower than that.
  int at[VECS];
  for (int h = 0; h < SIDE; h++) {
    at[h] = MIN(col + h * V, (VECS > SIDE ? n : ldb) - V);
    at[VECS - SIDE + h] = VECS > SIDE ? n + at[h] : at[h];
  }

  vec sums[MB * MR * VECS];  // where tiles wait between blocks
  int start = 0;
  while (start < k) {
    const int part = start < k1 ? k1 : k - k1, depth = MIN(KC, (start < k1 ? k1 : k) - start);
    IN_PTR(stg) source = start < k1 ? left + start : a2 + (start - k1);
    for (int tile = 0; tile < tiles; tile++) {
      const int top = first + tile * MR;
      float rows[MR * KC];
      for (int i = 0; i < MR; i++) {
        const int from = MIN(top + i, m - 1) * part;  // rows past the end repeat the last one and are not stored
        int j = 0;
        for (; j + V <= depth; j += V) STOREP(rows, i * KC + j, LOADV(source, from + j));
        for (; j < depth; j++) rows[i * KC + j] = LOAD(source, from + j);
      }
      vec sum[MR][VECS];
      for (int i = 0; i < MR; i++)
        for (int h = 0; h < VECS; h++) sum[i][h] = start == 0 ? SPLAT(0.0f) : sums[(tile * MR + i) * VECS + h];
      for (int j = 0; j < depth; j++) {
        vec values[VECS];
        for (int h = 0; h < VECS; h++) values[h] = LOADV(right, (start + j) * ldb + at[h]);
        for (int i = 0; i < MR; i++)
          for (int h = 0; h < VECS; h++) sum[i][h] = FMA(SPLAT(rows[i * KC + j]), values[h], sum[i][h]);
      }
      if (start + depth < k) {
        for (int i = 0; i < MR; i++)
          for (int h = 0; h < VECS; h++) sums[(tile * MR + i) * VECS + h] = sum[i][h];
        continue;
      }
      for (int i = 0; i < MR; i++) {
        if (top + i >= m) continue;
        for (int h = 0; h < SIDE; h++) {
          const int out = y_item + (top + i) * n + at[h];
          vec z = sum[i][h], gate = sum[i][VECS - SIDE + h];
#if HAS_BIAS
          z += LOADV(bias, at[h]);
          gate += LOADV(bias, at[VECS - SIDE + h]);
#endif
          z = VECS > SIDE ? z * ACTIVATE(gate) : ACTIVATE(z);
          if (at[h] + V <= n) {
#if HAS_ADD
            z += LOADV(residual, out);
#endif
            STOREV(y, out, z);
            continue;
          }
          float line[V];
          STOREP(line, 0, z);
          for (int j = 0; j < n; j++) {
#if HAS_ADD
            line[j] += LOAD(residual, out + j);
#endif
            STORE(y, out + j, line[j]);
          }
        }
      }
    }
    start += depth;
  }
}
