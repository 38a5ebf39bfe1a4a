//: op    = "Attention"
//: class = "cpu"
//: caps  = []
//: method = "flash"
//: why   = """Attention to so few keys that those of a head, their values and the scores of NV vectors of queries stay
//:         near (paper 3.2): all keys are met at once, so that no maximum is corrected and no sum is kept. Queries are
//:         turned into lanes for scores; of results columns are in lanes, and nothing is turned back."""
//: in    = ["q: stg[batch, queries, q_row]", "k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "k_row: int", "v_row: int", "q_from: int",
//:   "k_from: int", "v_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(queries, V * NV * SETS)", "heads", "batch"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16, 4, 8], NV = [2, 1, 3, 4], MR = [8, 4, 5, 6, 7, 10, 11], SETS = [16, 1, 2, 4, 8]}
//: needs = {keys = {min = 33, max = 128}}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: holds = ["keys == KEYS", "D <= 1024"]

#if !defined(D) || !defined(KEYS)  // the head dimension, and `keys` once more: loops and arrays are as long as needed
#error "D or KEYS is not defined"
#endif
#define GAP 8  // terms of a product from one line that is asked for to the next
// Keys in tiles of nearly MR: all alike, but for the last.
#define TILES ((KEYS + MR - 1) / MR)
#define TILE ((KEYS + TILES - 1) / TILES)
#define REST (KEYS % TILE)
// Of results a tile is ACROSS vectors of columns wide, a part of a row of them, and DOWN queries high.
#define VECTORS ((D + V - 1) / V)
#define FIT(across) (VECTORS % (across) == 0 && (across) * 4 <= MR * NV + 4)
#define ACROSS (FIT(2) ? 2 : FIT(3) ? 3 : FIT(5) ? 5 : 1)
#define DOWN (ACROSS > 2 || NV * V % 8 || MR < 8 ? 4 : 8)
#define ASKED (TILES * ((D + GAP - 1) / GAP) + NV * V / DOWN * (VECTORS / ACROSS) * ((KEYS + GAP - 1) / GAP))
#define WIDE (D < V ? V : D)  // floats of a key, and of its value

#define EACH(rows, columns, i, n)      \
  UNROLL                               \
  for (int i = 0; i < (rows); i++)     \
    UNROLL                             \
    for (int n = 0; n < (columns); n++)
#define PRODUCT(rows, columns, terms, LEFT, RIGHT)                                                 \
  vec sum[rows][columns];                                                                          \
  EACH(rows, columns, i, n) sum[i][n] = SPLAT(0.0f);                                               \
  for (int from = 0; from < (terms); from += GAP) {                                                \
    ASK_AHEAD                                                                                      \
    for (int t = from; t < MIN(from + GAP, terms); t++)                                            \
      EACH(rows, columns, i, n) sum[i][n] = FMA(SPLAT(LEFT(i, t)), RIGHT(t, n), sum[i][n]);        \
  }
#define KEY(i, t) k_block[(row + i) * WIDE + t]
#define QUERY(t, n) LOADP(query, (t * NV + n) * V)
#define SHARE(i, t) score[t * NV * V + row + i]
#define VALUE(t, n) LOADP(v_block, t * WIDE + COLUMN(left + n * V))
#define SCORES(rows)                                    \
  {                                                     \
    PRODUCT(rows, NV, D, KEY, QUERY)                    \
    EACH(rows, NV, i, n) {                              \
      high[n] = FMAX(high[n], sum[i][n]);               \
      STOREP(score, ((row + i) * NV + n) * V, sum[i][n]); \
    }                                                   \
  }

KERNEL(flash_near)(IN(stg, q), IN(stg, k), IN(stg, v), OUT(stg, y), ARG(int, batch), ARG(int, queries), ARG(int, keys),
                   ARG(int, heads), ARG(int, q_row), ARG(int, k_row), ARG(int, v_row), ARG(int, q_from),
                   ARG(int, k_from), ARG(int, v_from), ARG(float, scale) GRID) {
  const int first = GID(0) * V * NV * SETS, head = GID(1), item = GID(2), last = MIN(first + V * NV * SETS, queries);
  if (first >= queries || head >= heads || item >= batch) return;
  // q, k and v may be parts of wider rows: of one product that made all three.
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;
  const int y_row = heads * D, y_from = item * queries * y_row + head * D;

  float query[D * NV * V], score[KEYS * NV * V], k_block[KEYS * WIDE], v_block[KEYS * WIDE], inverse[NV * V];
  vec square[V];
  for (int j = 0; j < KEYS; j++) COPY_ROW(k_block, j * WIDE, k_head, j * k_row)
  for (int j = 0; j < KEYS; j++) COPY_ROW(v_block, j * WIDE, v_head, j * v_row)

  for (int top = first; top < last; top += NV * V) {
    // Ahead are the next queries and their results; behind the last of a head those of the next, and its keys.
    const int next = top + NV * V < queries ? top + NV * V : 0, key = (top - first) / (NV * V) * (ASKED / HEAD_LINES);
    const int on = next > 0 ? 0 : D, others = last == queries && key < KEYS;
    IN_PTR(stg) q_ahead = q_head + next * q_row + on;
    OUT_PTR(stg) y_ahead = y + y_from + next * y_row + on;
    IN_PTR(stg) k_ahead = k_head + (others ? key * k_row + D : 0);
    IN_PTR(stg) v_ahead = v_head + (others ? key * v_row + D : 0);
    int asked = 0, row = 0;

    // Queries into lanes: a square of V of them by V columns is turned in registers.
    UNROLL
    for (int n = 0; n < NV; n++)
      for (int left = 0; left < D; left += V) {
        UNROLL
        for (int j = 0; j < V; j++) {
          LOAD_COLUMNS(square[j], q_head, MIN(top + n * V + j, queries - 1) * q_row + COLUMN(left))
          square[j] = square[j] * (scale * LOG2_E);
        }
        TRANSPOSE(square)
        UNROLL
        for (int j = 0; j < HEAD_LANES; j++) STOREP(query, ((COLUMN(left) + j) * NV + n) * V, square[j]);
      }

    vec high[NV], total[NV];
    EACH(1, NV, i, n) high[n] = SPLAT(LOWEST);
    EACH(1, NV, i, n) total[n] = SPLAT(0.0f);
    for (; row + TILE <= KEYS; row += TILE) SCORES(TILE)
#if REST
    SCORES(REST)
#endif
    for (int j = 0; j < KEYS; j++)
      EACH(1, NV, i, n) {
        const vec power = EXP2_DOWN(LOADP(score, (j * NV + n) * V) - high[n]);
        STOREP(score, (j * NV + n) * V, power);
        total[n] += power;
      }
    EACH(1, NV, i, n) STOREP(inverse, n * V, 1.0f / total[n]);

    for (row = 0; row < NV * V; row += DOWN)
      for (int left = 0; left < D; left += ACROSS * V) {
        PRODUCT(DOWN, ACROSS, KEYS, SHARE, VALUE)
        EACH(DOWN, ACROSS, i, n)
          if (top + row + i < queries)
            STORE_COLUMNS(y, y_from + (top + row + i) * y_row + COLUMN(left + n * V), sum[i][n] * inverse[row + i])
      }
  }
}
