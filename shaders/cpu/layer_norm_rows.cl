//: op    = "LayerNormalization"
//: class = "cpu"
//: caps  = []
//: why   = """As layer_norm, R rows at a time: the chains of additions of one row are waited for by none of the others,
//:         and they share scale and bias."""
//: in    = ["x: stg[rows, cols]", "scale: stg[cols]", "bias: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "epsilon: float"]
//: grid  = ["ceil_div(rows, R)", "1", "1"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16, 4, 8], R = [4, 1, 2, 8]}
//: needs = {cols = {multiple = "V"}}

KERNEL(layer_norm_rows)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                        ARG(float, epsilon) GRID) {
  const int first = GID(0) * R;
  if (first >= rows) return;
  int start[R];
  float centre[R], factor[R], rest[R];
  EACH_ROW(r) start[r] = MIN(first + r, rows - 1) * cols;  // the last row may be computed more than once
  ROWS_STATISTICS(x, y, start, cols, epsilon, centre, factor, rest)

  for (int i = 0; i < cols; i += V) {
    const vec gain = LOADV(scale, i), shift = LOADV(bias, i);
    EACH_ROW(r) {
      const vec normal = FMA(LOADV(x, start[r] + i) - centre[r], SPLAT(factor[r]), SPLAT(rest[r]));
      STOREV(y, start[r] + i, FMA(normal, gain, shift));
    }
  }
}
