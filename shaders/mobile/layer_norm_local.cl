//: op    = "LayerNormalization"
//: class = "mobile"
//: caps  = []
//: uses  = ["subgroups"]
//: why   = """X work-items share a row, or several short ones: neighbours read neighbouring vectors. Sums and squares in
//:         one pass, less the row's first value."""
//: in    = ["x: stg[rows, cols]", "scale: stg[cols]", "bias: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "epsilon: float"]
//: grid  = ["ceil_div(rows, X // min(X, cols // 4)) * X", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 32, 128, 256]}
//: needs = {cols = {multiple = 4}}

KERNEL(layer_norm_local)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                         ARG(float, epsilon) GRID) {
  LOCAL(float, lanes, X);
  const int share = MIN(X, cols / 4), each = X / share;  // work-items per row, rows per work-group
  const int lane = LID(0) % share, row = GID(0) / X * each + LID(0) / share;
  const bool live = LID(0) / share < each && row < rows;  // the others wait with the rest
  const int start = live ? row * cols : 0, last = live ? cols : 0;

  // The first value is taken off first: a mean far above the deviation costs no digits. It is within sqrt(cols)
  // deviations of the mean, whatever the row.
  const float origin = LOAD(x, start);
  vec sum = SPLAT(0.0f), square = SPLAT(0.0f);
  for (int i = lane * 4; i < last; i += share * 4) {
    const vec d = LOAD4(x, start + i) - origin;
    sum += d;
    square = FMA(d, d, square);
  }
  float total, squares;
  PART_SUM(total, LANE_SUM(sum), lanes, share)
  PART_SUM(squares, LANE_SUM(square), lanes, share)
  const float mean = total / (float)cols;  // less the origin
  const float factor = RSQRT(FMAX(squares / (float)cols - mean * mean, 0.0f) + epsilon);

  for (int i = lane * 4; i < last; i += share * 4)
    STORE4(y, start + i, FMA((LOAD4(x, start + i) - origin - mean) * factor, LOAD4(scale, i), LOAD4(bias, i)));
}
