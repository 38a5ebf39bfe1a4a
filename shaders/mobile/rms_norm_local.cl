//: op    = "RmsNorm"
//: class = "mobile"
//: caps  = []
//: uses  = ["subgroups"]
//: why   = """As rms_norm: X work-items share a row, or several short ones; neighbours read neighbouring vectors."""
//: in    = ["x: stg[rows, cols]", "weight: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = [
//:   "rows: int", "cols: int", "heads: int", "tokens: int", "x_row: int", "x_from: int", "x_batch: int", "y_from: int",
//:   "y_batch: int", "epsilon: float",
//: ]
//: grid  = ["ceil_div(rows, X // min(X, cols // 4)) * X", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 32, 128, 256]}
//: needs = {cols = {multiple = 4}, x_row = {multiple = 4}, x_from = {multiple = 4}, x_batch = {multiple = 4}}
//: reach.x = "x_from + (rows // heads // tokens - 1) * x_batch + (tokens - 1) * x_row + heads * cols"
//: reach.y = "y_from + (rows // heads // tokens - 1) * y_batch + tokens * heads * cols"
//: holds = ["1 <= heads", "1 <= tokens", "rows % (heads * tokens) == 0"]

KERNEL(rms_norm_local)(IN(stg, x), IN(stg, weight), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, heads),
                       ARG(int, tokens), ARG(int, x_row), ARG(int, x_from), ARG(int, x_batch), ARG(int, y_from),
                       ARG(int, y_batch), ARG(float, epsilon) GRID) {
  LOCAL(float, lanes, X);
  const int share = MIN(X, cols / 4), each = X / share;  // work-items per row, rows per work-group
  const int lane = LID(0) % share, row = GID(0) / X * each + LID(0) / share;
  const bool live = LID(0) / share < each && row < rows;  // the others wait with the rest
  const int item = row / heads / tokens, token = row / heads % tokens, last = live ? cols : 0;
  const int start = live ? x_from + item * x_batch + token * x_row + row % heads * cols : 0;
  const int out = y_from + item * y_batch + (token * heads + row % heads) * cols;

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
