//: op    = "Attention"
//: class = "cpu"
//: caps  = []
//: method = "flash"
//: why   = """Attention to few keys (paper 3.2): keys and values of a head become floats once for ROWS queries, and stay
//:         near; MR queries at a time meet all of them. Queries and results are read and written as they lie."""
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int",
//:   "k_from: int", "v_from: int", "scale: float",
//: ]
//: grid  = ["heads", "ceil_div(queries, ROWS)", "batch"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16, 4, 8], NV = [2, 1, 3, 4], MR = [8, 4, 6, 12], ROWS = [256, 64, 128, 512]}
//: needs = {keys = {max = 32}}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: holds = ["1 <= keys", "keys == KEYS", "D <= 1024"]

#if !defined(D) || !defined(KEYS)  // the head dimension, and `keys` once more, so that loops and arrays are as long as needed
#error "D or KEYS is not defined"
#endif
#define WIDE ((D + V - 1) / V * V)      // columns in whole vectors
#define MANY ((KEYS + V - 1) / V * V)   // keys in whole vectors

// `n` vectors of MR rows of a product of `left` by `right`, from `at(h)` on of each of its `terms` rows.
#define PRODUCT(n, left, left_row, right, right_row, at, terms)                                     \
  vec sum[MR][n];                                                                                   \
  EACH(n, i, h) sum[i][h] = SPLAT(0.0f);                                                            \
  for (int j = 0; j < (terms); j++) {                                                               \
    vec some[n];                                                                                    \
    UNROLL                                                                                          \
    for (int h = 0; h < n; h++) some[h] = LOADP(right, j * (right_row) + at(h));                    \
    EACH(n, i, h) sum[i][h] = FMA(SPLAT(left[i * (left_row) + j]), some[h], sum[i][h]);             \
  }
#define EACH(n, i, h)              \
  UNROLL                           \
  for (int i = 0; i < MR; i++)     \
    UNROLL                         \
    for (int h = 0; h < n; h++)
#define SCORES(n)                                                                       \
  {                                                                                     \
    PRODUCT(n, query, WIDE, k_turned, MANY, SCORE_AT, D)                                 \
    EACH(n, i, h) STOREP(score, i * MANY + SCORE_AT(h), sum[i][h]);                     \
  }
#define SCORE_AT(h) (first_key + (h) * V)
#define MIX(n)                                                                          \
  {                                                                                     \
    PRODUCT(n, score, MANY, v_block, WIDE, MIX_AT, KEYS)                                \
    EACH(n, i, h)                                                                       \
      if (top + i < last)                                                               \
        STORE_COLUMNS(y, y_from + (top + i) * heads * D + MIX_AT(h), sum[i][h] * inverse[i]) \
  }
#define MIX_AT(h) COLUMN(left + (h) * V)
#define ASK_ROW(p) for (int c = 0; c < D; c += CACHE_LINE) PREFETCH((p) + c);

KERNEL(flash_rows)(IN(stg, q), IN(stg, k), IN(stg, v), OUT(stg, y), ARG(int, batch), ARG(int, queries), ARG(int, keys),
                   ARG(int, heads), ARG(int, q_row), ARG(int, k_row), ARG(int, v_row), ARG(int, q_from),
                   ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(1) * ROWS, head = GID(0), item = GID(2), last = MIN(first + ROWS, queries);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;
  const int y_from = item * queries * heads * D + head * D;

  float k_turned[WIDE * MANY], v_block[KEYS * WIDE], query[MR * WIDE], score[MR * MANY], rows[V * WIDE], line[V];
  float most[MR + V], inverse[MR + V];
  vec square[V], of_row[MR + V], past;
  for (int i = 0; i < MR + V; i++) of_row[i] = SPLAT(0.0f);
  // What is a stride apart no CPU foresees: the next head's rows, or this one's next queries where there are many, and
  // where results go.
  const int ahead = queries > 4 * MR ? MR * q_row : D;
  // Keys into lanes: a square of V of them by V columns is turned in registers. Those past the last repeat it.
  for (int from = 0; from < KEYS; from += V) {
    for (int j = 0; j < V; j++) {
      const int at = MIN(from + j, KEYS - 1) * k_row;
      COPY_ROW(rows, j * WIDE, k_head, at)
      ASK_ROW(k_head + at + D)
    }
    for (int left = 0; left < WIDE; left += V) {
      UNROLL
      for (int j = 0; j < V; j++) square[j] = LOADP(rows, j * WIDE + left) * (scale * LOG2_E);
      TRANSPOSE(square)
      UNROLL
      for (int j = 0; j < V; j++) STOREP(k_turned, (left + j) * MANY + from, square[j]);
    }
  }
  for (int j = 0; j < KEYS; j++) {
    COPY_ROW(v_block, j * WIDE, v_head, j * v_row)
    ASK_ROW(v_head + j * v_row + D)
  }
  for (int l = 0; l < V; l++) line[l] = MANY - V + l < KEYS ? 0.0f : LOWEST;
  past = LOADP(line, 0);

  for (int top = first; top < last; top += MR) {
    for (int i = 0; i < MR; i++) {
      const int at = MIN(top + i, last - 1) * q_row;
      COPY_ROW(query, i * WIDE, q_head, at)
      ASK_ROW(q_head + at + ahead)
      ASK_ROW(y + y_from + (top + i) * heads * D)
    }

    int first_key = 0;
    for (; first_key + NV * V <= MANY; first_key += NV * V) SCORES(NV)
#if MANY / V % NV
    SCORES(MANY / V % NV)
#endif
    for (int i = 0; i < MR; i++) {
      const vec live = LOADP(score, i * MANY + MANY - V) + past;
      STOREP(score, i * MANY + MANY - V, live);
      of_row[i] = live;
      UNROLL
      for (int c = 0; c < MANY - V; c += V) of_row[i] = FMAX(of_row[i], LOADP(score, i * MANY + c));
    }
    LANES_OF_ROWS(FMAX, most, of_row, MR)
    for (int i = 0; i < MR; i++) {
      of_row[i] = SPLAT(0.0f);
      UNROLL
      for (int c = 0; c < MANY; c += V) {
        const vec power = EXP2_DOWN(LOADP(score, i * MANY + c) - most[i]);
        STOREP(score, i * MANY + c, power);
        of_row[i] += power;
      }
    }
    LANES_OF_ROWS(PLUS, inverse, of_row, MR)
    for (int i = 0; i < MR; i++) inverse[i] = 1.0f / inverse[i];
    int left = 0;
    for (; left + NV * V <= WIDE; left += NV * V) MIX(NV)
#if WIDE / V % NV
    MIX(WIDE / V % NV)
#endif
  }
}
