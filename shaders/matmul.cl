//: op    = ["MatMul", "Gemm"]
//: why   = "Tiles of MR rows by NV vectors in registers; MB tiles share each block of KC rows of b, which stays in the nearest cache."
//: in    = ["a: stg[batch, m, k]", "b: stg[batch, k, n]"]
//: out   = ["y: stg[batch, m, n]"]
//: args  = ["batch: int", "m: int", "n: int", "k: int", "a_batch: int", "b_batch: int"]
//: grid  = ["ceil_div(n, V * NV)", "ceil_div(m, MR * MB)", "batch"]
//: group = ["X", "Y", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], MR = [6, 4, 8], MB = [8, 1, 2, 4, 16], KC = [128, 16, 64, 256], X = [1, 8, 16], Y = [1, 4, 8]}
//: needs = {}

KERNEL(matmul)(IN(stg, a), IN(stg, b), OUT(stg, y), ARG(int, batch), ARG(int, m), ARG(int, n), ARG(int, k), ARG(int, a_batch),
               ARG(int, b_batch) GRID) {
  const int col = GID(0) * V * NV, first = GID(1) * MR * MB, item = GID(2);
  if (col >= n || first >= m || item >= batch) return;
  const int tiles = (MIN(MR * MB, m - first) + MR - 1) / MR, y_item = item * m * n;
  IN_PTR(stg) left = a + item * a_batch;
  IN_PTR(stg) right = b + item * b_batch;

  if (n < V) {  // too narrow for a vector
    for (int r = first; r < MIN(first + MR * MB, m); r++)
      for (int c = 0; c < n; c++) {
        float sum = 0.0f;
        for (int j = 0; j < k; j++) sum = FMA(LOAD(left, r * k + j), LOAD(right, j * n + c), sum);
        STORE(y, y_item + r * n + c, sum);
      }
    return;
  }

  // A vector that would pass the last column moves back to end there: it computes some columns a second time, to the same values.
  int at[NV];
  for (int h = 0; h < NV; h++) at[h] = MIN(col + h * V, n - V);

  vec sums[MB * MR * NV];  // where tiles wait between blocks
  for (int start = 0; start < k; start += KC) {
    const int depth = MIN(KC, k - start);
    for (int tile = 0; tile < tiles; tile++) {
      const int top = first + tile * MR;
      float rows[MR * KC];
      for (int i = 0; i < MR; i++) {
        const int from = MIN(top + i, m - 1) * k + start;  // rows past the end repeat the last one and are not stored
        int j = 0;
        for (; j + V <= depth; j += V) STOREP(rows, i * KC + j, LOADV(left, from + j));
        for (; j < depth; j++) rows[i * KC + j] = LOAD(left, from + j);
      }
      vec sum[MR][NV];
      for (int i = 0; i < MR; i++)
        for (int h = 0; h < NV; h++) sum[i][h] = start == 0 ? SPLAT(0.0f) : sums[(tile * MR + i) * NV + h];
      for (int j = 0; j < depth; j++) {
        vec values[NV];
        for (int h = 0; h < NV; h++) values[h] = LOADV(right, (start + j) * n + at[h]);
        for (int i = 0; i < MR; i++)
          for (int h = 0; h < NV; h++) sum[i][h] = FMA(SPLAT(rows[i * KC + j]), values[h], sum[i][h]);
      }
      if (start + KC < k) {
        for (int i = 0; i < MR; i++)
          for (int h = 0; h < NV; h++) sums[(tile * MR + i) * NV + h] = sum[i][h];
      } else {
        for (int i = 0; i < MR; i++)
          if (top + i < m)
            for (int h = 0; h < NV; h++) STOREV(y, y_item + (top + i) * n + at[h], sum[i][h]);
      }
    }
  }
}
