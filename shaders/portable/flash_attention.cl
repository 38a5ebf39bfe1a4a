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
//: reach.mask = "MASKED * (1 + HEAD_MASKS * (heads - 1)) * (queries - ROW_MASK * (queries - 1)) * keys"
//: holds = ["1 <= keys", "D <= 1024"]

#ifndef D  // the head dimension, so that the arrays below are as long as needed
#error "D is not defined"
#endif
#define WIDE ((D + MR - 1) / MR * MR)  // columns in whole tiles of MR; those past D are computed and not stored
#define KEYS (KB / MR * MR)            // of a block, in whole tiles
// Rows of a block, as floats: half is converted once for all queries, and a broadcast reads memory directly. Rows past
// the last repeat it.
#define BLOCK_FROM(block, source, stride) \
  for (int j = 0; j < rows; j++) COPY_ROW(block, j * WIDE, source, MIN(key + j, keys - 1) * stride)

KERNEL(flash_attention)(IN(stg, q), IN(stg, k), IN(stg, v), IN(stg, mask), OUT(stg, y), ARG(int, batch),
                        ARG(int, queries), ARG(int, keys), ARG(int, heads), ARG(int, q_row), ARG(int, k_row),
                        ARG(int, v_row), ARG(int, q_from), ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(0) * V * NV * SETS, head = GID(1), item = GID(2);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;
  IN_PTR(stg) ahead = q_head + (first + V * NV * SETS < queries ? (first + V * NV * SETS) * q_row : D);

  vec query[SETS * NV * D], mixed[SETS * NV * WIDE], score[KEYS * NV], square[V], top[SETS * NV], total[SETS * NV];
  float k_block[KEYS * WIDE + V], v_block[KEYS * WIDE + V], line[V];
  // Queries into lanes: a square of V of them by V columns is turned in registers.
  for (int n = 0; n < SETS * NV && first + n / NV * NV * V < queries; n++) {
    for (int left = 0; left < D; left += V) {
      UNROLL
      for (int j = 0; j < V; j++) {
        LOAD_COLUMNS(square[j], q_head, MIN(first + n * V + j, queries - 1) * q_row + COLUMN(left))
        square[j] = square[j] * (scale * LOG2_E);
      }
      TRANSPOSE(square)
      UNROLL
      for (int j = 0; j < HEAD_LANES; j++) query[(n / NV * D + COLUMN(left) + j) * NV + n % NV] = square[j];
    }
    for (int c = 0; c < WIDE; c++) mixed[(n / NV * WIDE + c) * NV + n % NV] = SPLAT(0.0f);
    top[n] = SPLAT(LOWEST);  // not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN
    total[n] = SPLAT(0.0f);
  }
  for (int j = 0; j < KEYS; j++)
    for (int c = D; c < WIDE; c++) v_block[j * WIDE + c] = 0.0f;

  for (int key = 0; key < keys; key += KEYS) {
    const int live = MIN(KEYS, keys - key), rows = (live + MR - 1) / MR * MR;
    BLOCK_FROM(k_block, k_head, k_row)
    BLOCK_FROM(v_block, v_head, v_row)
    for (int set = 0; set < SETS; set++) {
      if (first + set * NV * V >= queries) break;
      // What is a stride apart no CPU foresees: the next work-item's queries, and where the results of this one go.
#if V > 4
      for (int j = 0; j < (key == 0 ? NV * V : 0); j++)
        for (int c = 0; c < D + CACHE_LINE - 1; c += CACHE_LINE) {
          PREFETCH(ahead + (set * NV * V + j) * q_row + c);
          PREFETCH(y + ((item * queries + first + set * NV * V + j) * heads + head) * D + c);
        }
#endif
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
#if ROW_MASK
            sum[i][n] += LOAD(mask, key_row) * LOG2_E;
#else
            for (int j = 0; j < V; j++)
              line[j] = LOAD(mask, MASK_FROM(head, MIN(query_row + j, queries - 1)) + key_row) * LOG2_E;
            sum[i][n] += LOADP(line, 0);
#endif
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
    for (int left = 0; left < D; left += V) {
      UNROLL
      for (int j = 0; j < HEAD_LANES; j++)
        square[j] = mixed[(n / NV * WIDE + COLUMN(left) + j) * NV + n % NV] * inverse;
      TRANSPOSE(square)
      UNROLL
      for (int j = 0; j < V; j++) {
        const int query = first + n * V + j;
        if (query < queries) STORE_COLUMNS(y, ((item * queries + query) * heads + head) * D + COLUMN(left), square[j])
      }
    }
  }
}
