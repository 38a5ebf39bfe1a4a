//: op    = "RmsNorm"
//: class = "mobile"
//: caps  = []
//: uses  = ["subgroups"]
//: why   = """As rms_norm: X work-items share a row, or several short ones; neighbours read neighbouring vectors."""
//: in    = ["x: stg[rows, cols]", "weight: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "heads: int", "x_row: int", "x_from: int", "epsilon: float"]
//: grid  = ["ceil_div(rows, X // min(X, cols // 4)) * X", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 32, 128, 256]}
//: needs = {cols = {multiple = 4}, x_row = {multiple = 4}, x_from = {multiple = 4}}
//: reach.x = "x_from + (rows - 1) // heads * x_row + heads * cols"
//: holds = ["1 <= heads"]

KERNEL(rms_norm_local)(IN(stg, x), IN(stg, weight), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, heads),
                       ARG(int, x_row), ARG(int, x_from), ARG(float, epsilon) GRID) {
  LOCAL(float, lanes, X);
  const int share = MIN(X, cols / 4), each = X / share;  // work-items per row, rows per work-group
  const int lane = LID(0) % share, row = GID(0) / X * each + LID(0) / share;
  const bool live = LID(0) / share < each && row < rows;  // the others wait with the rest
  const int start = live ? x_from + row / heads * x_row + row % heads * cols : 0;
  const int out = row * cols, last = live ? cols : 0;

  vec square = SPLAT(0.0f);
  for (int i = lane * 4; i < last; i += share * 4) {
    const vec four = LOAD4(x, start + i);
    square = FMA(four, four, square);
  }
  float squares;
  PART_SUM(squares, LANE_SUM(square), lanes, share)
  const float factor = RSQRT(squares / (float)cols + epsilon);

  for (int i = lane * 4; i < last; i += share * 4)
    STORE4(y, out + i, LOAD4(x, start + i) * factor * LOAD4(weight, i));
}
