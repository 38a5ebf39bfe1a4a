//: op    = "AdaLayerNorm"
//: class = "portable"
//: caps  = []
//: why   = """As layer_norm, times 1 + scale, plus shift: one row of each per item, which may be parts of wider rows."""
//: in    = ["x: stg[rows, cols]", "shift: stg[rows, cols]", "scale: stg[rows, cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = [
//:   "rows: int", "cols: int", "tokens: int", "shift_row: int", "scale_row: int", "shift_from: int", "scale_from: int",
//:   "epsilon: float",
//: ]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: reach.shift = "shift_from + (rows - 1) // tokens * shift_row + cols"
//: reach.scale = "scale_from + (rows - 1) // tokens * scale_row + cols"
//: holds = ["1 <= tokens"]

KERNEL(ada_layer_norm)(IN(stg, x), IN(stg, shift), IN(stg, scale), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                       ARG(int, tokens), ARG(int, shift_row), ARG(int, scale_row), ARG(int, shift_from),
                       ARG(int, scale_from), ARG(float, epsilon) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols, whole = cols - cols % V;
  IN_PTR(stg) plus = shift + shift_from + row / tokens * shift_row;
  IN_PTR(stg) times = scale + scale_from + row / tokens * scale_row;
  float origin, mean, factor;
  ROW_STATISTICS(x, start, cols, epsilon, origin, mean, factor)

  for (int i = 0; i < whole; i += V)
    STOREV(y, start + i, FMA((LOADV(x, start + i) - origin - mean) * factor, LOADV(times, i) + 1.0f, LOADV(plus, i)));
  for (int i = whole; i < cols; i++)
    STORE(y, start + i, FMA((LOAD(x, start + i) - origin - mean) * factor, LOAD(times, i) + 1.0f, LOAD(plus, i)));
}
