//: op    = ["FlashAttention", "FlashMaskedAttention"]
//: why   = "FlashAttention (paper 3.2): NV vectors of queries in lanes meet KB keys at a time; the scores are never stored, nothing is transposed."
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]", "mask: stg[queries, keys]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = ["batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int", "k_from: int", "v_from: int", "scale: float"]
//: grid  = ["ceil_div(queries, V * NV)", "heads", "batch"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], KB = [64, 8, 16, 32, 128], MR = [5, 4, 8], X = [1, 8]}
//: needs = {}

#ifndef D  // the head dimension, so that the arrays below are as long as needed
#error "D is not defined"
#endif
#if OP_FlashMaskedAttention
#define MASKED 1
#endif
#define WIDE ((D + MR - 1) / MR * MR)  // columns in whole tiles of MR; those past D are computed and not stored
#define KEYS (KB / MR * MR)            // of a block, in whole tiles
#define ROWS (KEYS > V ? KEYS : V)
#define LOG2_E 1.4426950408889634f     // scores are taken in powers of two

// Rows of a block, as floats: half is converted once for all queries, and a broadcast reads memory directly. Rows past the last repeat it.
#define BLOCK_FROM(source, first_row, last_row, stride)                                 \
  for (int j = 0; j < rows; j++) {                                                      \
    const int at = MIN(first_row + j, last_row) * stride;                               \
    int c = 0;                                                                          \
    for (; c + V <= D; c += V) STOREP(block, j * WIDE + c, LOADV(source, at + c));      \
    for (; c < D; c++) block[j * WIDE + c] = LOAD(source, at + c);                      \
  }

KERNEL(flash_attention)(IN(stg, q), IN(stg, k), IN(stg, v), IN(stg, mask), OUT(stg, y), ARG(int, batch), ARG(int, queries), ARG(int, keys),
                        ARG(int, heads), ARG(int, q_row), ARG(int, k_row), ARG(int, v_row), ARG(int, q_from), ARG(int, k_from),
                        ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(0) * V * NV, head = GID(1), item = GID(2);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;

  vec query[D * NV], mixed[WIDE * NV], score[KEYS * NV];
  float block[ROWS * WIDE], line[V];
  for (int j = 0; j < ROWS; j++)
    for (int c = D; c < WIDE; c++) block[j * WIDE + c] = 0.0f;
  for (int n = 0; n < NV; n++) {
    const int rows = V;
    BLOCK_FROM(q_head, (first + n * V), (queries - 1), q_row)
    for (int c = 0; c < D; c++) {
      for (int j = 0; j < V; j++) line[j] = block[j * WIDE + c];
      query[c * NV + n] = LOADP(line, 0) * (scale * LOG2_E);
    }
  }
  for (int c = 0; c < WIDE * NV; c++) mixed[c] = SPLAT(0.0f);

  // Start from LOWEST, not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN.
  vec top[NV], total[NV];
  UNROLL
  for (int n = 0; n < NV; n++) {
    top[n] = SPLAT(LOWEST);
    total[n] = SPLAT(0.0f);
  }
  for (int key = 0; key < keys; key += KEYS) {
    const int live = MIN(KEYS, keys - key), rows = (live + MR - 1) / MR * MR;
    BLOCK_FROM(k_head, key, (keys - 1), k_row)
    vec high[NV], fade[NV];
    UNROLL
    for (int n = 0; n < NV; n++) high[n] = top[n];
    for (int top_row = 0; top_row < rows; top_row += MR) {
      vec sum[MR][NV];
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int n = 0; n < NV; n++) sum[i][n] = SPLAT(0.0f);
      for (int c = 0; c < D; c++)
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int n = 0; n < NV; n++) sum[i][n] = FMA(SPLAT(block[(top_row + i) * WIDE + c]), query[c * NV + n], sum[i][n]);
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int n = 0; n < NV; n++) {
#if MASKED
          for (int j = 0; j < V; j++)
            line[j] = LOAD(mask, MIN(first + n * V + j, queries - 1) * keys + MIN(key + top_row + i, keys - 1)) * LOG2_E;
          sum[i][n] += LOADP(line, 0);
#endif
          high[n] = FMAX(high[n], sum[i][n]);
          score[(top_row + i) * NV + n] = sum[i][n];
        }
    }

    UNROLL
    for (int n = 0; n < NV; n++) {
      fade[n] = EXP2_DOWN(top[n] - high[n]);  // what was summed so far shrinks as the maximum grows
      total[n] = total[n] * fade[n];
      top[n] = high[n];
    }
    for (int j = 0; j < live; j++)
      UNROLL
      for (int n = 0; n < NV; n++) {
        const vec share = EXP2_DOWN(score[j * NV + n] - high[n]);
        score[j * NV + n] = share;
        total[n] += share;
      }

    BLOCK_FROM(v_head, key, (keys - 1), v_row)
    for (int left = 0; left < WIDE; left += MR) {
      vec sum[MR][NV];
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int n = 0; n < NV; n++) sum[i][n] = mixed[(left + i) * NV + n] * fade[n];
      for (int j = 0; j < live; j++)
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int n = 0; n < NV; n++) sum[i][n] = FMA(SPLAT(block[j * WIDE + left + i]), score[j * NV + n], sum[i][n]);
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int n = 0; n < NV; n++) mixed[(left + i) * NV + n] = sum[i][n];
    }
  }

  // A query that is masked everywhere has total 0 and gives zeros: it attends to nothing.
  for (int n = 0; n < NV; n++) {
    const vec inverse = 1.0f / FMAX(total[n], SPLAT(1e-30f));
    for (int c = 0; c < D; c++) {
      STOREP(line, 0, mixed[c * NV + n] * inverse);
      for (int j = 0; j < V; j++) block[j * WIDE + c] = line[j];
    }
    for (int j = 0; j < V; j++) {
      const int query_row = first + n * V + j;
      if (query_row >= queries) continue;
      const int out = ((item * queries + query_row) * heads + head) * D;
      int c = 0;
      for (; c + V <= D; c += V) STOREV(y, out + c, LOADP(block, j * WIDE + c));
      for (; c < D; c++) STORE(y, out + c, block[j * WIDE + c]);
    }
  }
}
