//: op    = ["Attention", "MaskedAttention"]
//: class = "portable"
//: caps  = []
//: after = "softmax_stats"
//: why   = """softmax(scores) v, where exp(score - max) / sum is taken as the scores are loaded: partially fused
//:         softmax (paper 3.2)."""
//: in    = ["scores: stg[count, queries, keys]", "stats: f32[count, queries, 2]", "v: stg[batch, keys, v_row]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = ["queries: int", "keys: int", "heads: int", "first: int", "count: int", "v_row: int", "v_from: int"]
//: grid  = ["1", "ceil_div(queries, MR)", "count"]
//: group = ["1", "Y", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], MR = [6, 4, 8], KC = [128, 16, 64, 256], Y = [1, 8]}
//: needs = {}
//: reach.v = "v_from + ((first + count - 1) // heads * keys + keys - 1) * v_row + heads * D"
//: reach.y = "((first + count - 1) // heads + 1) * queries * heads * D"
//: holds = ["1 <= heads", "1 <= D", "D <= 1024"]

#ifndef D  // the head dimension
#error "D is not defined"
#endif
#define PANELS ((D + V * NV - 1) / (V * NV))

KERNEL(attention_mix)(IN(stg, scores), IN(float, stats), IN(stg, v), OUT(stg, y), ARG(int, queries), ARG(int, keys),
                      ARG(int, heads), ARG(int, first), ARG(int, count), ARG(int, v_row), ARG(int, v_from) GRID) {
  const int top = GID(1) * MR, row = GID(2);
  if (top >= queries || row >= count) return;
  const int head = (first + row) % heads, item = (first + row) / heads;
  IN_PTR(stg) values = v + v_from + item * keys * v_row + head * D;

  // All columns of a head are one work-item's: a weight is computed once.
  vec sums[PANELS * MR * NV];
  for (int i = 0; i < PANELS * MR * NV; i++) sums[i] = SPLAT(0.0f);
  float weights[MR * KC];
  for (int start = 0; start < keys; start += KC) {
    const int depth = MIN(KC, keys - start);
    for (int i = 0; i < MR; i++) {
      // rows past the end are not stored
      const int line = row * queries + MIN(top + i, queries - 1), from = line * keys + start;
      const float high = stats[2 * line], inverse = stats[2 * line + 1];
      int j = 0;
      for (; j + V <= depth; j += V)
        STOREP(weights, i * KC + j, EXP2_DOWN((LOADV(scores, from + j) - high) * LOG2_E) * inverse);
      for (; j < depth; j++) weights[i * KC + j] = EXP(LOAD(scores, from + j) - high) * inverse;
    }
    for (int panel = 0; panel < PANELS; panel++) {
      vec sum[MR][NV];
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int h = 0; h < NV; h++) sum[i][h] = sums[(panel * MR + i) * NV + h];
      for (int j = 0; j < depth; j++) {
        vec columns[NV];
        UNROLL
        for (int h = 0; h < NV; h++) {
          // A vector that would pass the head's last column moves back to end there; a head narrower than a vector is
          // read one by one.
          const int at = (start + j) * v_row + MAX(0, MIN((panel * NV + h) * V, D - V));
#if D < V
          float line[V];
          for (int c = 0; c < V; c++) line[c] = c < D ? LOAD(values, at + c) : 0.0f;
          columns[h] = LOADP(line, 0);
#else
          columns[h] = LOADV(values, at);
#endif
        }
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int h = 0; h < NV; h++) sum[i][h] = FMA(SPLAT(weights[i * KC + j]), columns[h], sum[i][h]);
      }
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int h = 0; h < NV; h++) sums[(panel * MR + i) * NV + h] = sum[i][h];
    }
  }

  for (int i = 0; i < MR; i++) {
    if (top + i >= queries) continue;
    const int out = ((item * queries + top + i) * heads + head) * D;
    for (int h = 0; h < PANELS * NV; h++) {
      const vec sum = sums[(h / NV * MR + i) * NV + h % NV];
#if D < V
      float line[V];
      STOREP(line, 0, sum);
      for (int c = 0; c < D; c++) STORE(y, out + c, line[c]);
#else
      STOREV(y, out + MIN(h * V, D - V), sum);
#endif
    }
  }
}
