//: op    = ["Attention", "MaskedAttention"]
//: class = "mobile"
//: caps  = []
//: uses  = ["half"]
//: why   = """scale * q k^T (+ mask) of some heads, stored: the first of three commands of partially fused softmax (paper
//:         3.2). A work-item has MR queries by KR keys; four columns are multiplied at once, nothing is transposed."""
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "mask: stg[queries, keys]"]
//: out   = ["scores: stg[count, queries, keys]"]
//: args  = [
//:   "queries: int", "keys: int", "heads: int", "first: int", "count: int", "q_row: int", "k_row: int", "q_from: int",
//:   "k_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(keys, KR)", "ceil_div(queries, MR)", "count"]
//: group = ["X", "Y", "1"]
//: tune  = {X = [16, 8, 32], Y = [8, 4, 2], MR = [4, 2, 8], KR = [4, 8]}
//: needs = {head = {multiple = 4}, ragged = {max = 0}}
//: reach.q = "q_from + ((first + count - 1) // heads * queries + queries - 1) * q_row + heads * D"
//: reach.k = "k_from + ((first + count - 1) // heads * keys + keys - 1) * k_row + heads * D"
//: reach.mask = "MASKED * (1 + HEAD_MASKS * (heads - 1)) * (queries - ROW_MASK * (queries - 1)) * keys"
//: holds = [
//:   "1 <= heads", "1 <= D", "D % 4 == 0", "q_row % 4 == 0", "k_row % 4 == 0", "q_from % 4 == 0", "k_from % 4 == 0",
//: ]

#ifndef D  // the head dimension
#error "D is not defined"
#endif
#define TERMS 32  // products that are added in `real` before they go to float

KERNEL(attention_scores_tiles)(IN(stg, q), IN(stg, k), IN(stg, mask), OUT(stg, scores), ARG(int, queries),
                               ARG(int, keys), ARG(int, heads), ARG(int, first), ARG(int, count), ARG(int, q_row),
                               ARG(int, k_row), ARG(int, q_from), ARG(int, k_from), ARG(float, scale) GRID) {
  const int key = GID(0) * KR, top = GID(1) * MR, row = GID(2);
  if (key >= keys || top >= queries) return;
  const int head = (first + row) % heads, item = (first + row) / heads;
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;

  int left[MR], right[KR];  // rows past the last repeat it, and are not stored
  float sum[MR][KR];
  UNROLL
  for (int i = 0; i < MR; i++) left[i] = MIN(top + i, queries - 1) * q_row;
  UNROLL
  for (int j = 0; j < KR; j++) right[j] = MIN(key + j, keys - 1) * k_row;
  UNROLL
  for (int i = 0; i < MR; i++)
    for (int j = 0; j < KR; j++) sum[i][j] = 0.0f;
  for (int from = 0; from < D; from += TERMS * 4) {
    real4 part[MR][KR];
    UNROLL
    for (int i = 0; i < MR; i++)
      for (int j = 0; j < KR; j++) part[i][j] = RSPLAT(0.0f);
    for (int c = from; c < MIN(from + TERMS * 4, D); c += 4) {
      real4 columns[KR];
      UNROLL
      for (int j = 0; j < KR; j++) columns[j] = LOADR4(k_head, right[j] + c);
      UNROLL
      for (int i = 0; i < MR; i++) {
        const real4 column = TO_REAL4(LOAD4(q_head, left[i] + c) * scale);  // small, before it is summed in half
        UNROLL
        for (int j = 0; j < KR; j++) part[i][j] = RFMA(column, columns[j], part[i][j]);
      }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
      for (int j = 0; j < KR; j++) sum[i][j] += LANE_SUM(TO_VEC(part[i][j]));
  }

  UNROLL
  for (int i = 0; i < MR; i++) {
    if (top + i >= queries) continue;
    const int out = (row * queries + top + i) * keys + key;
    UNROLL
    for (int from = 0; from < KR; from += 4) {
      vec four = LOADP(sum[i], from);
      if (key + from + 4 <= keys) {
#if MASKED
        four += LOADV(mask, MASK_FROM(head, top + i) + key + from);
#endif
        STOREV(scores, out + from, four);
        continue;
      }
      for (int j = from; j < MIN(from + 4, keys - key); j++) {
#if MASKED
        sum[i][j] += LOAD(mask, MASK_FROM(head, top + i) + key + j);
#endif
        STORE(scores, out + j, sum[i][j]);
      }
    }
  }
}
