//: op    = "Attention"
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16", "bf16x3"]
//: method = "flash"
//: why   = """The first of two commands: 32 keys of a head, and their values, become bf16 as a matrix unit reads its
//:         right side, once for all queries."""
//: in    = ["k: stg[batch, keys, k_row]", "v: stg[batch, keys, v_row]"]
//: out   = ["panels: i32[batch, heads, keys, D]"]
//: args  = [
//:   "batch: int", "keys: int", "heads: int", "k_row: int", "v_row: int", "k_from: int", "v_from: int",
//: ]
//: grid  = ["ceil_div(keys, 32)", "heads", "batch"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16]}
//: needs = {keys = {min = 32}}
//: reach.k = "k_from + (batch * keys - 1) * k_row + heads * D"
//: reach.v = "v_from + (batch * keys - 1) * v_row + heads * D"
//: reach.panels = "batch * heads * ceil_div(keys, 32) * ceil_div(D, 32) * 1024 * (1 + MATH_bf16x3)"
//: holds = ["D <= 1024"]

#ifndef D  // the head dimension
#error "D is not defined"
#endif
#define DEEP ((D + 31) / 32 * 16)  // pairs of neighbouring columns: zeros past D
#define PANEL (DEEP * 32)          // pairs of 32 keys, or of their values
#define BOTH (2 * MAT_PARTS * PANEL)

// V columns of a token, zeros where there are none.
#define COLUMNS(to, from, stride, token, c)                                                      \
  vec to = SPLAT(0.0f);                                                                          \
  if ((token) < keys && (c) + V <= D) to = LOADV(from, (token) * stride + (c));                  \
  else if ((token) < keys && (c) < D) {                                                          \
    for (int l = 0; l < V; l++) lanes[l] = (c) + l < D ? LOAD(from, (token) * stride + (c) + l) : 0.0f; \
    to = LOADP(lanes, 0);                                                                        \
  }

KERNEL(flash_panels)(IN(stg, k), IN(stg, v), OUT(int, panels), ARG(int, batch), ARG(int, keys), ARG(int, heads),
                     ARG(int, k_row), ARG(int, v_row), ARG(int, k_from), ARG(int, v_from) GRID) {
  const int first = GID(0) * 32, head = GID(1), item = GID(2);
  if (first >= keys || head >= heads || item >= batch) return;
  IN_PTR(stg) k_head = k + k_from + item * keys * k_row + head * D;
  IN_PTR(stg) v_head = v + v_from + item * keys * v_row + head * D;
  OUT_PTR(uint) k_to = (OUT_PTR(uint))panels + ((item * heads + head) * ((keys + 31) / 32) + GID(0)) * BOTH;
  OUT_PTR(uint) v_to = k_to + BOTH / 2;
  float lanes[V];
  uint rows[MAT_PARTS * PANEL];

  // A row's columns are the terms of a product's sums: its pairs are of neighbours, and stand below each other.
  for (int j = 0; j < 32; j++)
    for (int c = 0; c < 2 * DEEP; c += V) {
      COLUMNS(some, k_head, k_row, first + j, c)
      STORE_PAIRS(rows, PANEL, j * DEEP + c / 2, some)
    }
  for (int part = 0; part < MAT_PARTS * PANEL; part += PANEL)
    for (int c = 0; c < DEEP; c++)
      for (int j = 0; j < 32; j++) k_to[part + c * 32 + j] = rows[part + j * DEEP + c];

  // Of the second product the tokens are: its pairs are of two tokens, in panels of 32 columns.
  for (int j = 0; j < 32; j += 2)
    for (int c = 0; c < 2 * DEEP; c += V) {
      COLUMNS(one, v_head, v_row, first + j, c)
      COLUMNS(next, v_head, v_row, first + j + 1, c)
      STORE_PAIRED(v_to, PANEL, c / 32 * 512 + j * 16 + c % 32, one, next)
    }
}
