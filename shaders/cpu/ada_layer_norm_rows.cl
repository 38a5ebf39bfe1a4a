//: op    = "AdaLayerNorm"
//: class = "cpu"
//: caps  = []
//: why   = """As layer_norm_rows, times 1 + scale, plus shift: one row of each per item, which may be parts of wider rows."""
//: in    = ["x: stg[rows, cols]", "shift: stg[rows, cols]", "scale: stg[rows, cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = [
//:   "rows: int", "cols: int", "tokens: int", "shift_row: int", "scale_row: int", "shift_from: int", "scale_from: int",
//:   "epsilon: float",
//: ]
//: grid  = ["ceil_div(tokens, R)", "ceil_div(rows, tokens)", "1"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16, 4, 8], R = [4, 1, 2, 8]}
//: needs = {cols = {multiple = "V"}}
//: reach.shift = "shift_from + (rows - 1) // tokens * shift_row + cols"
//: reach.scale = "scale_from + (rows - 1) // tokens * scale_row + cols"

KERNEL(ada_layer_norm_rows)(IN(stg, x), IN(stg, shift), IN(stg, scale), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                            ARG(int, tokens), ARG(int, shift_row), ARG(int, scale_row), ARG(int, shift_from),
                            ARG(int, scale_from), ARG(float, epsilon) GRID) {
  const int item = GID(1), first = item * tokens + GID(0) * R, last = MIN((item + 1) * tokens, rows) - 1;
  if (first > last) return;
  IN_PTR(stg) plus = shift + shift_from + item * shift_row;
  IN_PTR(stg) times = scale + scale_from + item * scale_row;
  int start[R];
  float centre[R], factor[R], rest[R];
  EACH_ROW(r) start[r] = MIN(first + r, last) * cols;  // an item's last row may be computed more than once
  ROWS_STATISTICS(x, y, start, cols, epsilon, centre, factor, rest)

  for (int i = 0; i < cols; i += V) {
    const vec gain = LOADV(times, i) + 1.0f, more = LOADV(plus, i);
    EACH_ROW(r) {
      const vec normal = FMA(LOADV(x, start[r] + i) - centre[r], SPLAT(factor[r]), SPLAT(rest[r]));
      STOREV(y, start[r] + i, FMA(normal, gain, more));
    }
  }
}
