//: op    = "AttentionScores"
//: why   = "scale * q k^T (+ mask) of some heads, stored: the first of three commands of partially fused softmax (paper 3.2). V keys in lanes."
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "mask: stg[queries, keys]"]
//: out   = ["scores: stg[count, queries, keys]"]
//: args  = ["queries: int", "keys: int", "heads: int", "first: int", "count: int", "q_row: int", "k_row: int", "q_from: int", "k_from: int", "scale: float"]
//: grid  = ["ceil_div(keys, V)", "ceil_div(queries, MR * MB)", "count"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], MR = [8, 4], MB = [16, 1, 4], X = [1, 8]}
//: needs = {}

#ifndef D  // the head dimension
#error "D is not defined"
#endif

KERNEL(attention_scores)(IN(stg, q), IN(stg, k), IN(stg, mask), OUT(stg, scores), ARG(int, queries), ARG(int, keys), ARG(int, heads),
                         ARG(int, first), ARG(int, count), ARG(int, q_row), ARG(int, k_row), ARG(int, q_from), ARG(int, k_from),
                         ARG(float, scale) GRID) {
  const int key = GID(0) * V, top = GID(1) * MR * MB, row = GID(2);
  if (key >= keys || top >= queries || row >= count) return;
  const int head = (first + row) % heads, item = (first + row) / heads;
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;

  vec turned[D];  // V keys, a column of each: read once, used by MR * MB queries
  float line[V];
  for (int c = 0; c < D; c++) {
    for (int j = 0; j < V; j++) line[j] = LOAD(k_head, MIN(key + j, keys - 1) * k_row + c) * scale;
    turned[c] = LOADP(line, 0);
  }

  for (int start = top; start < MIN(top + MR * MB, queries); start += MR) {
    vec sum[MR];
    for (int i = 0; i < MR; i++) sum[i] = SPLAT(0.0f);
    for (int c = 0; c < D; c++)
      for (int i = 0; i < MR; i++) sum[i] = FMA(SPLAT(LOAD(q_head, MIN(start + i, queries - 1) * q_row + c)), turned[c], sum[i]);
    for (int i = 0; i < MR; i++) {
      const int query = start + i, out = (row * queries + query) * keys + key;
      if (query >= queries) continue;
      if (key + V <= keys) {
#if MASKED
        sum[i] += LOADV(mask, query * keys + key);
#endif
        STOREV(scores, out, sum[i]);
        continue;
      }
      STOREP(line, 0, sum[i]);
      for (int j = 0; j < keys - key; j++) {
#if MASKED
        line[j] += LOAD(mask, query * keys + key + j);
#endif
        STORE(scores, out + j, line[j]);
      }
    }
  }
}
