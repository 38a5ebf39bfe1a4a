//: op    = ["Attention", "MaskedAttention"]
//: class = "portable"
//: caps  = []
//: method = "flash"
//: why   = """FlashAttention (paper 3.2): SETS of NV vectors of queries in lanes meet KB keys at a time; no score is
//:         stored, nothing transposed."""
//: in    = [
//:   "q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]",
//:   "mask: stg[queries, keys]",
//: ]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int",
//:   "k_from: int", "v_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(queries, V * NV * SETS)", "heads", "batch"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], SETS = [8, 1, 2, 4], KB = [64, 8, 16, 32, 128], MR = [5, 4, 8], X = [1, 8]}
//: needs = {}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: reach.mask = "MASKED * queries * keys"
//: holds = ["1 <= keys", "D <= 1024"]

#ifndef D  // the head dimension, so that the arrays below are as long as needed
#error "D is not defined"
#endif
#define WIDE ((D + MR - 1) / MR * MR)  // columns in whole tiles of MR; those past D are computed and not stored
#define KEYS (KB / MR * MR)            // of a block, in whole tiles
#define ROWS (KEYS > V ? KEYS : V)
#define LOG2_E 1.4426950408889634f     // scores are taken in powers of two

// Rows of a block, as floats: half is converted once for all queries, and a broadcast reads memory directly. Rows past
// the last repeat it. The last vector of a row ends where the row does: some columns are copied twice.
#if D < V
#define COPY_ROW(c) for (int c = 0; c < D; c++)
#define COPY(to, i, from, j) to[i] = LOAD(from, j)
#define STORE_ROW(to, i, from, j) STORE(to, i, from[j])
#define COLUMN(c) c
#else
#define COPY_ROW(c) for (int c = 0; c < D; c += V)
#define COPY(to, i, from, j) STOREP(to, i, LOADV(from, j))
#define STORE_ROW(to, i, from, j) STOREV(to, i, LOADP(from, j))
#define COLUMN(c) MIN(c, D - V)
#endif
#define BLOCK_FROM(block, rows, source, first_row, last_row, stride)                    \
  for (int j = 0; j < rows; j++) {                                                      \
    const int at = MIN(first_row + j, last_row) * stride;                               \
    COPY_ROW(c) { COPY(block, j * WIDE + COLUMN(c), source, at + COLUMN(c)); }          \
  }

KERNEL(flash_attention)(IN(stg, q), IN(stg, k), IN(stg, v), IN(stg, mask), OUT(stg, y), ARG(int, batch),
                        ARG(int, queries), ARG(int, keys), ARG(int, heads), ARG(int, q_row), ARG(int, k_row),
                        ARG(int, v_row), ARG(int, q_from), ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(0) * V * NV * SETS, head = GID(1), item = GID(2);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;

  vec query[SETS * NV * D], mixed[SETS * NV * WIDE], score[KEYS * NV];
  vec top[SETS * NV], total[SETS * NV];
  float k_block[ROWS * WIDE], v_block[ROWS * WIDE], line[V];
  for (int n = 0; n < SETS * NV && first + n / NV * NV * V < queries; n++) {
    BLOCK_FROM(k_block, V, q_head, (first + n * V), (queries - 1), q_row)
    for (int c = 0; c < D; c++) {
      for (int j = 0; j < V; j++) line[j] = k_block[j * WIDE + c];
      query[(n / NV * D + c) * NV + n % NV] = LOADP(line, 0) * (scale * LOG2_E);
    }
    top[n] = SPLAT(LOWEST);  // not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN
    total[n] = SPLAT(0.0f);
  }
  for (int c = 0; c < SETS * NV * WIDE; c++) mixed[c] = SPLAT(0.0f);
  for (int j = 0; j < ROWS; j++)
    for (int c = D; c < WIDE; c++) v_block[j * WIDE + c] = 0.0f;

  for (int key = 0; key < keys; key += KEYS) {
    const int live = MIN(KEYS, keys - key), rows = (live + MR - 1) / MR * MR;
    BLOCK_FROM(k_block, rows, k_head, key, (keys - 1), k_row)
    BLOCK_FROM(v_block, rows, v_head, key, (keys - 1), v_row)
    for (int set = 0; set < SETS; set++) {
      if (first + set * NV * V >= queries) break;
      vec high[NV], fade[NV];
      UNROLL
      for (int n = 0; n < NV; n++) high[n] = top[set * NV + n];
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
            for (int n = 0; n < NV; n++)
              sum[i][n] = FMA(SPLAT(k_block[(top_row + i) * WIDE + c]), query[(set * D + c) * NV + n], sum[i][n]);
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int n = 0; n < NV; n++) {
#if MASKED
            const int key_row = MIN(key + top_row + i, keys - 1), query_row = first + (set * NV + n) * V;
            for (int j = 0; j < V; j++) line[j] = LOAD(mask, MIN(query_row + j, queries - 1) * keys + key_row) * LOG2_E;
            sum[i][n] += LOADP(line, 0);
#endif
            high[n] = FMAX(high[n], sum[i][n]);
            score[(top_row + i) * NV + n] = sum[i][n];
          }
      }

      UNROLL
      for (int n = 0; n < NV; n++) {
        fade[n] = EXP2_DOWN(top[set * NV + n] - high[n]);  // what was summed so far shrinks as the maximum grows
        total[set * NV + n] = total[set * NV + n] * fade[n];
        top[set * NV + n] = high[n];
      }
      for (int j = 0; j < live; j++)
        UNROLL
        for (int n = 0; n < NV; n++) {
          const vec share = EXP2_DOWN(score[j * NV + n] - high[n]);
          score[j * NV + n] = share;
          total[set * NV + n] += share;
        }

      for (int left = 0; left < WIDE; left += MR) {
        vec sum[MR][NV];
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int n = 0; n < NV; n++) sum[i][n] = mixed[(set * WIDE + left + i) * NV + n] * fade[n];
        for (int j = 0; j < live; j++)
          UNROLL
          for (int i = 0; i < MR; i++)
            UNROLL
            for (int n = 0; n < NV; n++)
              sum[i][n] = FMA(SPLAT(v_block[j * WIDE + left + i]), score[j * NV + n], sum[i][n]);
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int n = 0; n < NV; n++) mixed[(set * WIDE + left + i) * NV + n] = sum[i][n];
      }
    }
  }

  // A query that is masked everywhere has a total of next to nothing, others have 1 or more. It gives zeros: it
  // attends to nothing.
  for (int n = 0; n < SETS * NV && first + n / NV * NV * V < queries; n++) {
    const vec inverse = total[n] / FMAX(total[n] * total[n], SPLAT(1e-30f));
    for (int c = 0; c < D; c++) {
      STOREP(line, 0, mixed[(n / NV * WIDE + c) * NV + n % NV] * inverse);
      for (int j = 0; j < V; j++) k_block[j * WIDE + c] = line[j];
    }
    for (int j = 0; j < MIN(V, queries - first - n * V); j++) {
      const int out = ((item * queries + first + n * V + j) * heads + head) * D;
      COPY_ROW(c) { STORE_ROW(y, out + COLUMN(c), k_block, j * WIDE + COLUMN(c)); }
    }
  }
}
