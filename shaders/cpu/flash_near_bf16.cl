//: op    = "Attention"
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16"]
//: method = "flash"
//: why   = """Attention to so few keys that those of a head and their values stay near (paper 3.2), both products in
//:         bf16: a work-item makes pairs of them once for ROWS queries, and a block of queries meets all keys at once.
//:         Maxima, exponentials and their sums are in float."""
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int",
//:   "k_from: int", "v_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(queries, ROWS)", "heads", "batch"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16], ROWS = [480, 96, 192, 960]}
//: needs = {keys = {min = 33, max = 128}, head = {max = 512}}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: holds = ["keys == KEYS", "D <= 512"]

#if !defined(D) || !defined(KEYS)  // the head dimension, and `keys` once more: loops and arrays are as long as needed
#error "D or KEYS is not defined"
#endif
#define DEEP ((D + 31) / 32 * 16)       // pairs of neighbouring columns: zeros past D
#define MANY ((KEYS + 31) / 32 * 32)    // keys in whole blocks
#define LAST ((KEYS - 1) / V * V)       // where the last vector of a row's scores begins
#define WIDE (2 * DEEP + 16)            // elements from row to row: powers of two share few sets of a cache
#define LINE (DEEP + 16)
#define SCORE (MANY + 16)
#define SHARE (MANY / 2 + 16)
#define GAP (MAT_K > 8 ? MAT_K / 2 : 4)  // pairs of a product from one line that is asked for to the next
// While a block of queries is multiplied.
#define ASKED ((DEEP + GAP - 1) / GAP * (MANY / 32) + (MANY / 2 + GAP - 1) / GAP * (DEEP / 16))

// Products of a block of rows by 32 columns, or by 16 where there are no more (WORD: BLOCK or SLIM).
#define PRODUCT(WORD, pairs, left, left_row, right, right_row, to, to_row)                     \
  {                                                                                            \
    WORD##_ZERO                                                                                \
    for (int from = 0; from < (pairs); from += GAP) {                                          \
      ASK_AHEAD                                                                                \
      for (int t = from; t < MIN(from + GAP, pairs); t += MAT_K / 2) {                         \
        WORD##_MULTIPLY(left + t, left_row, 0, right + t * (right_row), right_row, 0)          \
      }                                                                                        \
    }                                                                                          \
    WORD##_STORE(to, to_row)                                                                   \
  }
#define PRODUCTS(columns, pairs, left, left_row, right, right_row, to, to_row)                              \
  for (int c = 0; c < (columns); c += 32) {                                                                 \
    if ((columns) - c > 16) PRODUCT(BLOCK, pairs, left, left_row, right + c, right_row, to + c, to_row)     \
    else PRODUCT(SLIM, pairs, left, left_row, right + c, right_row, to + c, to_row)                         \
  }

KERNEL(flash_near_bf16)(IN(stg, q), IN(stg, k), IN(stg, v), OUT(stg, y), ARG(int, batch), ARG(int, queries),
                        ARG(int, keys), ARG(int, heads), ARG(int, q_row), ARG(int, k_row), ARG(int, v_row),
                        ARG(int, q_from), ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(0) * ROWS, head = GID(1), item = GID(2), last = MIN(first + ROWS, queries);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;
  const int y_row = heads * D, y_from = item * queries * y_row + head * D;

  uint query[BLOCK_M * LINE], share[BLOCK_M * SHARE], k_pairs[DEEP * SCORE], v_pairs[MANY / 2 * WIDE];
  float rows[32 * WIDE], score[BLOCK_M * SCORE], mixed[BLOCK_M * WIDE], most[BLOCK_M + V], whole[BLOCK_M + V], line[V];
  vec square[V], of_row[BLOCK_M + V], past;
  // Zeros wherever a row has fewer pairs than a unit takes.
  for (int i = 0; i < BLOCK_M * SHARE; i++) share[i] = 0;
  for (int i = 0; i < DEEP * SCORE; i++) k_pairs[i] = 0;
  for (int i = 0; i < MANY / 2 * WIDE; i++) v_pairs[i] = 0;
  for (int i = 0; i < 32 * WIDE; i++) rows[i] = 0.0f;
  for (int i = 0; i < BLOCK_M + V; i++) of_row[i] = SPLAT(0.0f);
  for (int l = 0; l < V; l++) line[l] = LAST + l < KEYS ? 0.0f : LOWEST;
  past = LOADP(line, 0);

  // Of scores a row's columns are the terms of sums: keys go into lanes, a square of V of them by V columns is turned in
  // registers. Those past the last repeat it.
  for (int from = 0; from < KEYS; from += V) {
    for (int j = 0; j < V; j++) COPY_ROW(rows, j * WIDE, k_head, MIN(from + j, KEYS - 1) * k_row)
    for (int left = 0; left < D; left += V) {
      UNROLL
      for (int j = 0; j < V; j++) square[j] = LOADP(rows, j * WIDE + left);
      TRANSPOSE(square)
      UNROLL
      for (int j = 0; j < V; j += 2)
        STORE_PAIRED(k_pairs, 0, (left + j) / 2 * SCORE + from, square[j], square[j + 1])
    }
  }
  // Of results the keys are; the share of one past the last is nothing.
  for (int j = 0; j < KEYS; j += 2) {
    COPY_ROW(rows, 0, v_head, j * v_row)
    COPY_ROW(rows, WIDE, v_head, MIN(j + 1, KEYS - 1) * v_row)
    for (int c = 0; c < D; c += V) {
      const vec one = LOADP(rows, c), next = LOADP(rows, WIDE + c);
      STORE_PAIRED(v_pairs, 0, j / 2 * WIDE + c, one, next)
    }
  }

  MAT_BEGIN
  for (int top = first; top < last; top += BLOCK_M) {
    // Ahead are the next queries and their results; behind the last of a head those of the next, and its keys.
    const int next = top + BLOCK_M < queries ? top + BLOCK_M : 0, key = (top - first) / BLOCK_M * (ASKED / HEAD_LINES);
    const int on = next > 0 ? 0 : D, others = last == queries && key < KEYS;
    IN_PTR(stg) q_ahead = q_head + next * q_row + on;
    OUT_PTR(stg) y_ahead = y + y_from + next * y_row + on;
    IN_PTR(stg) k_ahead = k_head + (others ? key * k_row + D : 0);
    IN_PTR(stg) v_ahead = v_head + (others ? key * v_row + D : 0);
    int asked = 0;

    for (int i = 0; i < BLOCK_M; i++) COPY_ROW(rows, i * WIDE, q_head, MIN(top + i, queries - 1) * q_row)
    for (int i = 0; i < BLOCK_M; i++)
      for (int c = 0; c < 2 * DEEP; c += V)
        STORE_PAIRS(query, 0, i * LINE + c / 2, LOADP(rows, i * WIDE + c) * (scale * LOG2_E))
    PRODUCTS(KEYS, (D + 1) / 2, query, LINE, k_pairs, SCORE, score, SCORE)
    for (int i = 0; i < BLOCK_M; i++) {
      const vec live = LOADP(score, i * SCORE + LAST) + past;
      STOREP(score, i * SCORE + LAST, live);
      of_row[i] = live;
      UNROLL
      for (int c = 0; c < LAST; c += V) of_row[i] = FMAX(of_row[i], LOADP(score, i * SCORE + c));
    }
    LANES_OF_ROWS(FMAX, most, of_row, BLOCK_M)
    for (int i = 0; i < BLOCK_M; i++) {
      of_row[i] = SPLAT(0.0f);
      UNROLL
      for (int c = 0; c < KEYS; c += V) {
        const vec power = EXP2_DOWN(LOADP(score, i * SCORE + c) - most[i]);
        STORE_PAIRS(share, 0, i * SHARE + c / 2, power)
        of_row[i] += power;
      }
    }
    LANES_OF_ROWS(PLUS, whole, of_row, BLOCK_M)
    PRODUCTS(D, (KEYS + 1) / 2, share, SHARE, v_pairs, WIDE, mixed, WIDE)
    for (int i = 0; i < MIN(BLOCK_M, last - top); i++)
      for (int c = 0; c < D; c += V)
        STORE_COLUMNS(y, y_from + (top + i) * y_row + COLUMN(c), LOADP(mixed, i * WIDE + COLUMN(c)) * (1.0f / whole[i]))
  }
  MAT_END
}
