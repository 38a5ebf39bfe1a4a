//: op    = ["Attention", "MaskedAttention"]
//: class = "mobile"
//: caps  = []
//: uses  = ["half"]
//: method = "flash"
//: why   = """FlashAttention (paper 3.2) of larger heads: a work-group owns BQ queries and has them, a block of keys or
//:         values, and their scores in local memory; sums are registers."""
//: in    = [
//:   "q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]",
//:   "mask: stg[queries, keys]",
//: ]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int",
//:   "k_from: int", "v_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(queries, BQ) * X", "heads", "batch"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 128], BQ = [16, 8, 32], QR = [2, 1, 4], KB = [32, 16]}
//: needs = {head = {multiple = 4, max = 160}, ragged = {max = 0}}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: reach.mask = "MASKED * (1 + HEAD_MASKS * (heads - 1)) * (queries - ROW_MASK * (queries - 1)) * keys"
//: holds = [
//:   "D <= 160", "D % 4 == 0", "1 <= keys", "q_row % 4 == 0", "k_row % 4 == 0", "v_row % 4 == 0", "q_from % 4 == 0",
//:   "k_from % 4 == 0", "v_from % 4 == 0",
//: ]

#ifndef D  // the head dimension
#error "D is not defined"
#endif
#define FOURS (D / 4)
#define PITCH (FOURS + 1)      // of rows in local memory: one more, as rows a power of two apart share a bank
#define LANES (X * QR / BQ)    // work-items that share QR queries: first their keys, then their columns
#define TERMS 32               // products that are added in `real` before they go to float

// Keys of a block: KB, or as many fewer as 32 KB of local memory take.
#if HALF
#define BYTES 2
#else
#define BYTES 4
#endif
#define ROOM (32768 - BQ * PITCH * 4 * BYTES - BQ * LANES * 4)
#define PER_KEY ((PITCH * 4 + BQ) * BYTES)
#if KB * PER_KEY <= ROOM
#define KEYS KB
#elif KB / 2 * PER_KEY <= ROOM
#define KEYS (KB / 2)
#else
#define KEYS (KB / 4)
#endif
#define OWN ((KEYS + LANES - 1) / LANES)      // keys of a work-item
#define COLUMNS ((FOURS + LANES - 1) / LANES) // columns of four that it sums

#define EACH_SCORE(r, i)         \
  UNROLL                         \
  for (int r = 0; r < QR; r++)   \
    UNROLL                       \
    for (int i = 0; i < OWN; i++)

#define COPY_BLOCK(rows, source, from, last, stride)                                \
  for (int i = LID(0); i < (rows) * FOURS; i += X)                                  \
    block[i / FOURS * PITCH + i % FOURS] = LOADR4(source, MIN((from) + i / FOURS, last) * stride + i % FOURS * 4);

KERNEL(flash_local)(IN(stg, q), IN(stg, k), IN(stg, v), IN(stg, mask), OUT(stg, y), ARG(int, batch), ARG(int, queries),
                    ARG(int, keys), ARG(int, heads), ARG(int, q_row), ARG(int, k_row), ARG(int, v_row),
                    ARG(int, q_from), ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
  LOCAL(real4, tile, BQ * PITCH);
  LOCAL(real4, block, KEYS * PITCH);
  LOCAL(real, shares, BQ * KEYS);
  LOCAL(float, lanes, BQ * LANES);
  const int first = GID(0) / X * BQ, head = GID(1), item = GID(2);
  const int lane = LID(0) % LANES, own = LID(0) / LANES * QR;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;

  for (int i = LID(0); i < BQ * FOURS; i += X) {  // queries past the last repeat it, and are not stored
    const int at = MIN(first + i / FOURS, queries - 1) * q_row + i % FOURS * 4;
    tile[i / FOURS * PITCH + i % FOURS] = TO_REAL4(LOAD4(q_head, at) * (scale * LOG2_E));
  }
  vec mixed[QR][COLUMNS];
  float top[QR], total[QR];  // total: of this lane's keys
  UNROLL
  for (int r = 0; r < QR; r++) {
    top[r] = LOWEST;  // not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN
    total[r] = 0.0f;
    for (int c = 0; c < COLUMNS; c++) mixed[r][c] = SPLAT(0.0f);
  }

  for (int key = 0; key < keys; key += KEYS) {
    const int live = MIN(KEYS, keys - key);
    COPY_BLOCK(live, k_head, key, keys - 1, k_row)
    BARRIER();  // queries and keys are there
    float score[QR][OWN];
    int from[OWN];
    EACH_SCORE(r, i) score[r][i] = 0.0f;
    UNROLL
    for (int i = 0; i < OWN; i++) from[i] = MIN(lane + i * LANES, live - 1);  // past the last: it again, with no share
    for (int left = 0; left < FOURS; left += TERMS) {
      real4 product[QR][OWN];
      EACH_SCORE(r, i) product[r][i] = RSPLAT(0.0f);
      for (int c = left; c < MIN(left + TERMS, FOURS); c++) {
        real4 column[OWN];
        UNROLL
        for (int i = 0; i < OWN; i++) column[i] = block[from[i] * PITCH + c];
        UNROLL
        for (int r = 0; r < QR; r++) {
          const real4 row = tile[(own + r) * PITCH + c];
          UNROLL
          for (int i = 0; i < OWN; i++) product[r][i] = RFMA(row, column[i], product[r][i]);
        }
      }
      EACH_SCORE(r, i) score[r][i] += LANE_SUM(TO_VEC(product[r][i]));
    }
#if MASKED
    EACH_SCORE(r, i)
    score[r][i] += LOAD(mask, MASK_FROM(head, MIN(first + own + r, queries - 1)) + key + from[i]) * LOG2_E;
#endif
    UNROLL
    for (int r = 0; r < QR; r++) {
      float high = top[r];
      UNROLL
      for (int i = 0; i < OWN; i++) high = FMAX(high, score[r][i]);
      lanes[(own + r) * LANES + lane] = high;
    }
    BARRIER();  // every lane's maximum is there, and the keys have been used

    float fade[QR];  // what was summed so far shrinks as the maximum grows
    UNROLL
    for (int r = 0; r < QR; r++) {
      float high = top[r];
      for (int i = 0; i < LANES; i++) high = FMAX(high, lanes[(own + r) * LANES + i]);
      fade[r] = EXP2(top[r] - high);
      top[r] = high;
      total[r] *= fade[r];
      UNROLL
      for (int i = 0; i < OWN; i++) {
        const int j = lane + i * LANES;
        if (j >= KEYS) continue;
        const real share = (real)(j < live ? EXP2(score[r][i] - high) : 0.0f);
        shares[(own + r) * KEYS + j] = share;
        total[r] += (float)share;
      }
    }
    COPY_BLOCK(live, v_head, key, keys - 1, v_row)
    BARRIER();  // shares and values are there
    real4 sum[QR][COLUMNS];
    UNROLL
    for (int r = 0; r < QR; r++)
      for (int c = 0; c < COLUMNS; c++) sum[r][c] = RSPLAT(0.0f);
    for (int j = 0; j < live; j++)
      UNROLL
      for (int c = 0; c < COLUMNS; c++) {
        const real4 column = block[j * PITCH + MIN(lane + c * LANES, FOURS - 1)];
        UNROLL
        for (int r = 0; r < QR; r++) sum[r][c] = RFMA(shares[(own + r) * KEYS + j], column, sum[r][c]);
      }
    UNROLL
    for (int r = 0; r < QR; r++)
      for (int c = 0; c < COLUMNS; c++) mixed[r][c] = FMA(mixed[r][c], SPLAT(fade[r]), TO_VEC(sum[r][c]));
    BARRIER();  // everyone has used the values
  }

  UNROLL
  for (int r = 0; r < QR; r++) lanes[(own + r) * LANES + lane] = total[r];
  BARRIER();  // every lane's sum is there
  UNROLL
  for (int r = 0; r < QR; r++) {
    const int query = first + own + r;
    if (query >= queries) continue;
    float whole = 0.0f;
    for (int i = 0; i < LANES; i++) whole += lanes[(own + r) * LANES + i];
    // A query that is masked everywhere attends to nothing: it gives zeros.
    const float inverse = whole == 0.0f ? 0.0f : 1.0f / whole;
    const int out = ((item * queries + query) * heads + head) * D;
    UNROLL
    for (int c = 0; c < COLUMNS; c++)
      if (lane + c * LANES < FOURS) STORE4(y, out + (lane + c * LANES) * 4, mixed[r][c] * inverse);
  }
}
