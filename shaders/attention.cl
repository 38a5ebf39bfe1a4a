//: op    = ["Attention", "MaskedAttention"]
//: why   = "FlashAttention (paper 3.2): V queries in lanes meet KB keys at a time; the scores are never stored, nothing is transposed."
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]", "mask: stg[queries, keys]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = ["batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int", "k_from: int", "v_from: int", "scale: float"]
//: grid  = ["ceil_div(queries, V)", "heads", "batch"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], KB = [8, 4, 16], X = [1, 8]}
//: needs = {}

#ifndef D  // the head dimension, so that the arrays below are as long as needed
#error "D is not defined"
#endif
#if OP_MaskedAttention
#define MASKED 1
#endif

KERNEL(attention)(IN(stg, q), IN(stg, k), IN(stg, v), IN(stg, mask), OUT(stg, y), ARG(int, batch), ARG(int, queries), ARG(int, keys),
                  ARG(int, heads), ARG(int, q_row), ARG(int, k_row), ARG(int, v_row), ARG(int, q_from), ARG(int, k_from),
                  ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(0) * V, head = GID(1), item = GID(2);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;

  vec query[D], mixed[D];
  float line[V];
  for (int c = 0; c < D; c++) {
    for (int j = 0; j < V; j++) line[j] = LOAD(q_head, MIN(first + j, queries - 1) * q_row + c) * scale;
    query[c] = LOADP(line, 0);
    mixed[c] = SPLAT(0.0f);
  }

  // A block of keys, then of values, as floats: half is converted once for V queries, and a broadcast reads memory directly.
  float block[KB * D];
  // Start from LOWEST, not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN.
  vec top = SPLAT(LOWEST), total = SPLAT(0.0f);
  for (int key = 0; key < keys; key += KB) {
    vec score[KB];
    int at[KB];
    for (int j = 0; j < KB; j++) {
      at[j] = MIN(key + j, keys - 1);  // keys past the end read the last one and get weight 0
      score[j] = SPLAT(0.0f);
    }
    for (int j = 0; j < KB; j++) {
      int c = 0;
      for (; c + V <= D; c += V) STOREP(block, j * D + c, LOADV(k_head, at[j] * k_row + c));
      for (; c < D; c++) block[j * D + c] = LOAD(k_head, at[j] * k_row + c);
    }
    for (int c = 0; c < D; c++)
      for (int j = 0; j < KB; j++) score[j] = FMA(query[c], SPLAT(block[j * D + c]), score[j]);
#if MASKED
    for (int j = 0; j < KB; j++) {
      for (int lane = 0; lane < V; lane++) line[lane] = LOAD(mask, MIN(first + lane, queries - 1) * keys + MIN(key + j, keys - 1));
      score[j] += LOADP(line, 0);
    }
#endif

    vec high = top;
    for (int j = 0; j < KB; j++) high = FMAX(high, score[j]);
    const vec fade = EXP(top - high);  // what was summed so far shrinks as the maximum grows
    total = total * fade;
    for (int j = 0; j < KB; j++) {
      score[j] = EXP(score[j] - high) * (key + j < keys ? 1.0f : 0.0f);
      total += score[j];
    }
    for (int j = 0; j < KB; j++) {
      int c = 0;
      for (; c + V <= D; c += V) STOREP(block, j * D + c, LOADV(v_head, at[j] * v_row + c));
      for (; c < D; c++) block[j * D + c] = LOAD(v_head, at[j] * v_row + c);
    }
    for (int c = 0; c < D; c++) {
      vec sum = mixed[c] * fade;
      for (int j = 0; j < KB; j++) sum = FMA(score[j], SPLAT(block[j * D + c]), sum);
      mixed[c] = sum;
    }
    top = high;
  }

  // A query that is masked everywhere has total 0 and gives zeros: it attends to nothing.
  const vec inverse = 1.0f / FMAX(total, SPLAT(1e-30f));
  for (int c = 0; c < D; c++) {
    STOREP(line, 0, mixed[c] * inverse);
    for (int j = 0; j < V; j++)
      if (first + j < queries) STORE(y, ((item * queries + first + j) * heads + head) * D + c, line[j]);
  }
}
