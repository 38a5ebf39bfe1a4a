//: op    = "LayerNormalization"
//: class = "portable"
//: caps  = []
//: why   = """Mean, then variance of the centred values, less the row's first value: a mean far above the deviation
//:         costs no digits."""
//: in    = ["x: stg[rows, cols]", "scale: stg[cols]", "bias: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "epsilon: float"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

KERNEL(layer_norm)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                   ARG(float, epsilon) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols, whole = cols - cols % V;
  float origin, mean, factor;
  ROW_STATISTICS(x, start, cols, epsilon, origin, mean, factor)

  for (int i = 0; i < whole; i += V)
    STOREV(y, start + i, FMA((LOADV(x, start + i) - origin - mean) * factor, LOADV(scale, i), LOADV(bias, i)));
  for (int i = whole; i < cols; i++)
    STORE(y, start + i, FMA((LOAD(x, start + i) - origin - mean) * factor, LOAD(scale, i), LOAD(bias, i)));
}
