//: op    = ["Attention", "MaskedAttention"]
//: class = "mobile"
//: caps  = []
//: uses  = ["half"]
//: after = "softmax_online"
//: why   = """softmax(scores) v (paper 3.2): a work-group owns BQ queries and takes exp(score - max) of KC keys once, into
//:         local memory, for all of its columns; 1 / sum multiplies the finished sums."""
//: in    = ["scores: stg[count, queries, keys]", "stats: f32[count, queries, 2]", "v: stg[batch, keys, v_row]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "queries: int", "keys: int", "heads: int", "first: int", "count: int", "v_row: int", "v_from: int", "columns: int",
//: ]
//: grid  = ["ceil_div(columns, X * MR // BQ * NC * 4) * X", "ceil_div(queries, BQ)", "count"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 128], BQ = [16, 8, 32], MR = [4, 2, 8], NC = [1, 2], KC = [32, 16]}
//: needs = {head = {multiple = 4}, ragged = {max = 0}}
//: reach.v = "v_from + ((first + count - 1) // heads * keys + keys - 1) * v_row + heads * D"
//: reach.y = "((first + count - 1) // heads + 1) * queries * heads * D"
//: holds = ["1 <= heads", "1 <= D", "D % 4 == 0", "columns == D", "v_row % 4 == 0", "v_from % 4 == 0"]

#ifndef D  // the head dimension
#error "D is not defined"
#endif
#define LANES (X * MR / BQ)    // work-items that share MR queries

KERNEL(attention_mix_tiles)(IN(stg, scores), IN(float, stats), IN(stg, v), OUT(stg, y), ARG(int, queries),
                            ARG(int, keys), ARG(int, heads), ARG(int, first), ARG(int, count), ARG(int, v_row),
                            ARG(int, v_from), ARG(int, columns) GRID) {
  LOCAL(real4, shares, BQ * (KC / 4));
  const int top = GID(1) * BQ, row = GID(2), head = (first + row) % heads, item = (first + row) / heads;
  const int left = GID(0) / X * (LANES * NC) + LID(0) % LANES, own = LID(0) / LANES * MR;  // columns, in fours
  IN_PTR(stg) values = v + v_from + item * keys * v_row + head * D;

  int at[NC];  // columns past the last repeat it, and are not stored
  vec sum[MR][NC];
  UNROLL
  for (int c = 0; c < NC; c++) at[c] = MIN(left + c * LANES, D / 4 - 1) * 4;
  UNROLL
  for (int r = 0; r < MR; r++)
    for (int c = 0; c < NC; c++) sum[r][c] = SPLAT(0.0f);
  for (int key = 0; key < keys; key += KC) {
    const int depth = MIN(KC, keys - key);
    for (int i = LID(0); i < BQ * (KC / 4); i += X) {
      const int line = row * queries + MIN(top + i / (KC / 4), queries - 1), j = i % (KC / 4) * 4;
      float some[4];
      UNROLL
      for (int e = 0; e < 4; e++) some[e] = j + e < depth ? LOAD(scores, line * keys + key + j + e) : LOWEST;
      shares[i] = TO_REAL4(EXP2((LOADP(some, 0) - stats[2 * line]) * LOG2_E));
    }
    BARRIER();  // all shares of these keys are there
    real4 part[MR][NC];
    UNROLL
    for (int r = 0; r < MR; r++)
      for (int c = 0; c < NC; c++) part[r][c] = RSPLAT(0.0f);
    for (int j = 0; j < depth; j += 4) {
      int from[4];  // keys past the last repeat it, and have no share
      UNROLL
      for (int e = 0; e < 4; e++) from[e] = MIN(key + j + e, keys - 1) * v_row;
      UNROLL
      for (int c = 0; c < NC; c++) {
        const real4 v0 = LOADR4(values, from[0] + at[c]), v1 = LOADR4(values, from[1] + at[c]);
        const real4 v2 = LOADR4(values, from[2] + at[c]), v3 = LOADR4(values, from[3] + at[c]);
        UNROLL
        for (int r = 0; r < MR; r++) {
          const real4 share = shares[(own + r) * (KC / 4) + j / 4];
          part[r][c] = RFMA(share.w, v3, RFMA(share.z, v2, RFMA(share.y, v1, RFMA(share.x, v0, part[r][c]))));
        }
      }
    }
    UNROLL
    for (int r = 0; r < MR; r++)
      for (int c = 0; c < NC; c++) sum[r][c] += TO_VEC(part[r][c]);
    BARRIER();  // everyone has used the shares
  }

  UNROLL
  for (int r = 0; r < MR; r++) {
    const int query = top + own + r;
    if (query >= queries) continue;
    const float inverse = stats[2 * (row * queries + query) + 1];
    UNROLL
    for (int c = 0; c < NC; c++)
      if (left + c * LANES < D / 4)
        STORE4(y, ((item * queries + query) * heads + head) * D + at[c], sum[r][c] * inverse);
  }
}
