//: op    = ["Attention", "MaskedAttention"]
//: class = "mobile"
//: caps  = []
//: uses  = ["half"]
//: method = "flash"
//: why   = """FlashAttention (paper 3.2) of small heads: a query, its sums and KB scores are one work-item's registers;
//:         all of a group meet the same keys, SHARED of them in local memory."""
//: in    = [
//:   "q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]",
//:   "mask: stg[queries, keys]",
//: ]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int",
//:   "k_from: int", "v_from: int", "scale: float",
//: ]
//: grid  = ["queries", "heads", "batch"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 32, 128], KB = [8, 4, 16], SHARED = [32, 1, 64]}
//: needs = {head = {multiple = 4, max = 40}, ragged = {max = 0}, queries = {min = "X"}}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: reach.mask = "MASKED * (1 + HEAD_MASKS * (heads - 1)) * (queries - ROW_MASK * (queries - 1)) * keys"
//: holds = [
//:   "D <= 40", "D % 4 == 0", "1 <= keys", "q_row % 4 == 0", "k_row % 4 == 0", "v_row % 4 == 0", "q_from % 4 == 0",
//:   "k_from % 4 == 0", "v_from % 4 == 0",
//: ]

#ifndef D  // the head dimension
#error "D is not defined"
#endif
#define FOURS (D / 4)

#if SHARED > 1
#define AT_ONCE SHARED
#define K_ROW(key, c) k_block[((key) - block) * FOURS + (c)]
#define V_ROW(key, c) v_block[((key) - block) * FOURS + (c)]
#else  // every work-item reads the same address
#define AT_ONCE keys
#define K_ROW(key, c) LOADR4(k_head, (key) * k_row + (c) * 4)
#define V_ROW(key, c) LOADR4(v_head, (key) * v_row + (c) * 4)
#endif

KERNEL(flash_registers)(IN(stg, q), IN(stg, k), IN(stg, v), IN(stg, mask), OUT(stg, y), ARG(int, batch),
                        ARG(int, queries), ARG(int, keys), ARG(int, heads), ARG(int, q_row), ARG(int, k_row),
                        ARG(int, v_row), ARG(int, q_from), ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
#if SHARED > 1
  LOCAL(real4, k_block, SHARED * FOURS);
  LOCAL(real4, v_block, SHARED * FOURS);
#endif
  const int query = MIN(GID(0), queries - 1), head = GID(1), item = GID(2);  // those past the last help to copy keys
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + (item * queries + query) * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;

  real4 row[FOURS];
  vec mixed[FOURS];
  UNROLL
  for (int c = 0; c < FOURS; c++) {
    row[c] = TO_REAL4(LOAD4(q_head, c * 4) * (scale * LOG2_E));
    mixed[c] = SPLAT(0.0f);
  }
  float top = LOWEST, total = 0.0f;  // not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN

  for (int block = 0; block < keys; block += AT_ONCE) {
    const int end = MIN(block + AT_ONCE, keys);
#if SHARED > 1
    for (int i = LID(0); i < (end - block) * FOURS; i += X) {
      k_block[i] = LOADR4(k_head, (block + i / FOURS) * k_row + i % FOURS * 4);
      v_block[i] = LOADR4(v_head, (block + i / FOURS) * v_row + i % FOURS * 4);
    }
    BARRIER();  // the block's keys and values are there
#endif
    for (int key = block; key < end; key += KB) {
      float score[KB], high = top;
      UNROLL
      for (int j = 0; j < KB; j++) {
        const int at = MIN(key + j, end - 1);  // those past the last repeat it, and get no share
        real4 product = RSPLAT(0.0f);
        UNROLL
        for (int c = 0; c < FOURS; c++) product = RFMA(row[c], K_ROW(at, c), product);
        score[j] = LANE_SUM(TO_VEC(product));
#if MASKED
        score[j] += LOAD(mask, MASK_FROM(head, query) + at) * LOG2_E;
#endif
        high = FMAX(high, score[j]);
      }
      const float fade = EXP2(top - high);  // what was summed so far shrinks as the maximum grows
      top = high;
      total *= fade;
      real share[KB];
      UNROLL
      for (int j = 0; j < KB; j++) {
        share[j] = (real)(key + j < end ? EXP2(score[j] - high) : 0.0f);
        total += (float)share[j];
      }
      UNROLL
      for (int c = 0; c < FOURS; c++) {
        real4 sum = RSPLAT(0.0f);
        UNROLL
        for (int j = 0; j < KB; j++) sum = RFMA(share[j], V_ROW(MIN(key + j, end - 1), c), sum);
        mixed[c] = FMA(mixed[c], SPLAT(fade), TO_VEC(sum));
      }
    }
#if SHARED > 1
    BARRIER();  // everyone has used the block
#endif
  }

  if (GID(0) >= queries) return;
  // A query that is masked everywhere attends to nothing: it gives zeros.
  const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
  UNROLL
  for (int c = 0; c < FOURS; c++) STORE4(y, ((item * queries + query) * heads + head) * D + c * 4, mixed[c] * inverse);
}
