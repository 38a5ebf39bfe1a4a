//: op    = ["Attention", "MaskedAttention"]
//: class = "portable"
//: caps  = []
//: why   = """scale * q k^T (+ mask) of some heads, stored: the first of three commands of partially fused softmax
//:         (paper 3.2). Lanes are keys."""
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "mask: stg[queries, keys]"]
//: out   = ["scores: stg[count, queries, keys]"]
//: args  = [
//:   "queries: int", "keys: int", "heads: int", "first: int", "count: int", "q_row: int", "k_row: int", "q_from: int",
//:   "k_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(keys, V * NV)", "ceil_div(queries, MR * MB)", "count"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], MR = [6, 4, 8], MB = [64, 1, 4, 16], X = [1, 8]}
//: needs = {}
//: reach.q = "q_from + ((first + count - 1) // heads * queries + queries - 1) * q_row + heads * D"
//: reach.k = "k_from + ((first + count - 1) // heads * keys + keys - 1) * k_row + heads * D"
//: reach.mask = "MASKED * (1 + HEAD_MASKS * (heads - 1)) * (queries - ROW_MASK * (queries - 1)) * keys"
//: holds = ["1 <= heads", "1 <= D", "D <= 1024"]

#ifndef D  // the head dimension
#error "D is not defined"
#endif

// Half is widened a row at a time where vectors are wide; elsewhere a broadcast reads memory directly.
#define WIDEN (F16 && V > 4 && D % V == 0)

KERNEL(attention_scores)(IN(stg, q), IN(stg, k), IN(stg, mask), OUT(stg, scores), ARG(int, queries), ARG(int, keys),
                         ARG(int, heads), ARG(int, first), ARG(int, count), ARG(int, q_row), ARG(int, k_row),
                         ARG(int, q_from), ARG(int, k_from), ARG(float, scale) GRID) {
  const int key = GID(0) * V * NV, top = GID(1) * MR * MB, row = GID(2);
  if (key >= keys || top >= queries || row >= count) return;
  const int head = (first + row) % heads, item = (first + row) / heads;
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;

  // NV vectors of keys, a column of each: read once, used by MR * MB queries. A block at a time where columns fill
  // vectors: rows a power of two apart share few sets of a cache, and going down a column would read each line anew.
  vec turned[D * NV];
  float line[V];
#if D % V == 0
  float block[V * V];
  for (int v = 0; v < NV; v++)
    for (int left = 0; left < D; left += V) {
      for (int j = 0; j < V; j++)
        STOREP(block, j * V, LOADV(k_head, MIN(key + v * V + j, keys - 1) * k_row + left) * scale);
      for (int c = 0; c < V; c++) {
        for (int j = 0; j < V; j++) line[j] = block[j * V + c];
        turned[(left + c) * NV + v] = LOADP(line, 0);
      }
    }
#else
  for (int c = 0; c < D; c++)
    for (int v = 0; v < NV; v++) {
      for (int j = 0; j < V; j++) line[j] = LOAD(k_head, MIN(key + v * V + j, keys - 1) * k_row + c) * scale;
      turned[c * NV + v] = LOADP(line, 0);
    }
#endif

  for (int start = top; start < MIN(top + MR * MB, queries); start += MR) {
    int from[MR];
    UNROLL
    for (int i = 0; i < MR; i++) from[i] = MIN(start + i, queries - 1) * q_row;
#if WIDEN
    float wide[MR * D];
    for (int i = 0; i < MR; i++)
      for (int c = 0; c < D; c += V) STOREP(wide, i * D + c, LOADV(q_head, from[i] + c));
#define LEFT(i, c) wide[(i) * D + (c)]
#else
#define LEFT(i, c) LOAD(q_head, from[i] + (c))
#endif
    vec sum[MR][NV];
    UNROLL
    for (int i = 0; i < MR; i++)
      UNROLL
      for (int v = 0; v < NV; v++) sum[i][v] = SPLAT(0.0f);
    for (int c = 0; c < D; c++)
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(LEFT(i, c)), turned[c * NV + v], sum[i][v]);
    UNROLL
    for (int i = 0; i < MR; i++) {
      const int query = start + i;
      if (query >= queries) continue;
      UNROLL
      for (int v = 0; v < NV; v++) {
        const int at = key + v * V, out = (row * queries + query) * keys + at;
        vec z = sum[i][v];
        if (at + V <= keys) {
#if MASKED
          z += LOADV(mask, MASK_FROM(head, query) + at);
#endif
          STOREV(scores, out, z);
          continue;
        }
        STOREP(line, 0, z);
        for (int j = 0; j < keys - at; j++) {
#if MASKED
          line[j] += LOAD(mask, MASK_FROM(head, query) + at + j);
#endif
          STORE(scores, out + j, line[j]);
        }
      }
    }
  }
}
