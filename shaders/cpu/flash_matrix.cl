//: op    = "Attention"
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16", "bf16x3"]
//: method = "flash"
//: after = "flash_panels"
//: why   = """FlashAttention with both products in bf16: blocks of queries meet KEYS keys at a time, 32 in the lanes of
//:         a block. Maxima, exponentials and their sums are in float."""
//: in    = ["q: stg[batch, queries, q_row]", "panels: i32[batch, heads, keys, D]"]
//: out   = ["y: stg[batch, queries, heads, D]"]
//: args  = [
//:   "batch: int", "queries: int", "keys: int", "heads: int", "q_row: int", "q_from: int", "scale: float",
//: ]
//: grid  = ["ceil_div(queries, ROWS)", "heads", "batch"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16], ROWS = [192, 48, 96], KEYS = [128, 64, 256]}
//: needs = {}
//: reach.q = "q_from + (batch * queries - 1) * q_row + heads * D"
//: reach.panels = "batch * heads * ceil_div(keys, 32) * ceil_div(D, 32) * 1024 * (1 + MATH_bf16x3)"
//: holds = ["1 <= keys", "D <= 1024"]

#ifndef D  // the head dimension, so that the arrays below are as long as needed
#error "D is not defined"
#endif
#define DEEP ((D + 31) / 32 * 16)  // pairs of neighbouring columns: zeros past D
#define PANEL (DEEP * 32)          // pairs of 32 keys, or of their values
#define BOTH (2 * MAT_PARTS * PANEL)
#define LINE (DEEP + 16)           // elements from row to row: powers of two share few sets of a cache
#define WIDE (2 * DEEP + 16)
#define SHARE (KEYS / 2 + 16)
#define SLACK 32                // rows past the last one: no block has more
#define LOW_QUERY ((ROWS + SLACK) * LINE)  // where the low parts of values of two parts begin
#define LOW_SHARE (SLACK * SHARE)
#define HIGHEST 16.0f  // powers of two that a score may be over its row's `top`: sums in float have room for more

// Products of a block of rows by 32 columns, or by 16 where there are no more (WORD: BLOCK or SLIM).
#define SCORES(WORD)                                                                 \
  {                                                                                  \
    WORD##_ZERO                                                                      \
    for (int c = 0; c < (D + 1) / 2; c += MAT_K / 2) {                               \
      WORD##_MULTIPLY(query + (row * LINE + c), LINE, LOW_QUERY, right + c * 32, 32, PANEL)  \
    }                                                                                \
    WORD##_STORE(score, 32)                                                          \
  }
#define MIX(WORD)                                                                                     \
  {                                                                                                   \
    WORD##_LOAD(mixed + (row * WIDE + c), WIDE)                                                       \
    for (int part = 0; part < count; part += 32)                                                      \
      for (int j = 0; j < MIN(16, (count - part + 1) / 2); j += MAT_K / 2) {                          \
        WORD##_MULTIPLY(share + (part / 2 + j), SHARE, LOW_SHARE, values + (part / 32 * BOTH + j * 32), 32, PANEL) \
      }                                                                                               \
    WORD##_STORE(mixed + (row * WIDE + c), WIDE)                                                      \
  }
#define EACH_SCORE(i, h)              \
  UNROLL                              \
  for (int i = 0; i < BLOCK_M; i++)   \
    UNROLL                            \
    for (int h = 0; h < 2; h++)
#define SCORE(i, h) LOADP(score, (i) * 32 + (h) * V)

KERNEL(flash_matrix)(IN(stg, q), IN(int, panels), OUT(stg, y), ARG(int, batch), ARG(int, queries), ARG(int, keys),
                     ARG(int, heads), ARG(int, q_row), ARG(int, q_from), ARG(float, scale) GRID) {
  const int first = GID(0) * ROWS, head = GID(1), item = GID(2);
  if (first >= queries || head >= heads || item >= batch) return;
  IN_PTR(stg) q_head = q + q_from + item * queries * q_row + head * D;
  IN_PTR(uint) packed = (IN_PTR(uint))panels + (item * heads + head) * ((keys + 31) / 32) * BOTH;
  const int live = MIN(ROWS, queries - first);

  uint query[MAT_PARTS * LOW_QUERY], share[MAT_PARTS * LOW_SHARE];
  float mixed[(ROWS + SLACK) * WIDE], top[ROWS + SLACK], score[BLOCK_M * 32], seen[BLOCK_M * 32], lanes[V];
  vec total[ROWS + SLACK], past[2];
  MAT_BEGIN
  for (int i = 0; i < ROWS + SLACK; i++) {
    if (i >= (live + BLOCK_M - 1) / BLOCK_M * BLOCK_M) break;
    const int from = MIN(first + i, queries - 1) * q_row;  // rows past the last repeat it
    for (int c = 0; c < 2 * DEEP; c += V) {
      vec some = SPLAT(0.0f);
      if (c + V <= D) some = LOADV(q_head, from + c);
      else if (c < D) {
        for (int l = 0; l < V; l++) lanes[l] = c + l < D ? LOAD(q_head, from + c + l) : 0.0f;
        some = LOADP(lanes, 0);
      }
      STORE_PAIRS(query, LOW_QUERY, i * LINE + c / 2, some * (scale * LOG2_E))
    }
    for (int c = 0; c < 2 * DEEP; c += V) STOREP(mixed, i * WIDE + c, SPLAT(0.0f));
    total[i] = SPLAT(0.0f);
    top[i] = 0.0f;
  }
  EACH_SCORE(i, h) STOREP(score, i * 32 + h * V, SPLAT(0.0f));
  for (int h = 0; h < 2; h++) {
    for (int l = 0; l < V; l++) lanes[l] = (keys - 1) / 32 * 32 + h * V + l < keys ? 0.0f : LOWEST;
    past[h] = LOADP(lanes, 0);
  }

  for (int key = 0; key < keys; key += KEYS) {
    const int count = MIN(KEYS, keys - key);
    for (int row = 0; row < live; row += BLOCK_M) {
      int begun = key > 0;
      vec sum[BLOCK_M];
      UNROLL
      for (int i = 0; i < BLOCK_M; i++) sum[i] = SPLAT(0.0f);
      for (int part = 0; part < count; part += 32) {
        IN_PTR(uint) right = packed + (key + part) / 32 * BOTH;
        if (count - part > 16) SCORES(BLOCK)
        else SCORES(SLIM)
        if (count - part < 32) EACH_SCORE(i, h) STOREP(score, i * 32 + h * V, SCORE(i, h) + past[h]);
        vec over = SPLAT(LOWEST);
        EACH_SCORE(i, h) over = FMAX(over, SCORE(i, h) - top[row + i]);
        // Powers are of what a score is over a number that stays, until some would grow too large for sums in float.
        if (!begun || ANY_ABOVE(over, HIGHEST)) {
          int raised = 0;  // none where a NaN hides what is above
          EACH_SCORE(i, h) STOREP(seen, i * 32 + h * V, SCORE(i, h));  // so that scores themselves stay in registers
          for (int i = 0; i < BLOCK_M; i++) {
            const float high = LANES_MAX(FMAX(LOADP(seen, i * 32), LOADP(seen, i * 32 + V)));
            const float more = high - top[row + i];
            if (begun && !(more > HIGHEST)) continue;
            top[row + i] = high;
            if (!begun) continue;
            const vec fade = EXP2_DOWN(SPLAT(-more));
            for (int c = (row + i) * WIDE; c < (row + i) * WIDE + D; c += V) STOREP(mixed, c, LOADP(mixed, c) * fade);
            total[row + i] = total[row + i] * fade;
            raised = 1;
          }
          begun = 1;
          if (part > 0 && raised) {  // these keys once more
            for (int i = 0; i < BLOCK_M; i++) sum[i] = SPLAT(0.0f);
            part = -32;
            continue;
          }
        }
        EACH_SCORE(i, h) {
          const vec power = EXP2_DOWN(SCORE(i, h) - top[row + i]);
          sum[i] += power;
          STORE_PAIRS(share, LOW_SHARE, i * SHARE + part / 2 + h * V / 2, power)
        }
      }
      for (int i = 0; i < BLOCK_M; i++) total[row + i] += sum[i];
      for (int c = 0; c < D; c += 32) {
        IN_PTR(uint) values = packed + key / 32 * BOTH + BOTH / 2 + c * 16;
        if (D - c > 16) MIX(BLOCK)
        else MIX(SLIM)
      }
    }
  }
  MAT_END

  for (int i = 0; i < live; i++) {
    float whole = 0.0f;
    STOREP(lanes, 0, total[i]);
    for (int l = 0; l < V; l++) whole += lanes[l];
    const int to = ((item * queries + first + i) * heads + head) * D;
    for (int c = 0; c < D; c += V)
      STORE_COLUMNS(y, to + COLUMN(c), LOADP(mixed, i * WIDE + COLUMN(c)) * (1.0f / whole))
  }
}
