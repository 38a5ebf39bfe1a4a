//: op    = "AdaLayerNorm"
//: class = "mobile"
//: caps  = []
//: uses  = ["subgroups"]
//: why   = "As layer_norm_local: X work-items share a row, or several short ones. Rows of an item have one scale and shift."
//: in    = ["x: stg[rows, cols]", "shift: stg[rows, cols]", "scale: stg[rows, cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = [
//:   "rows: int", "cols: int", "tokens: int", "shift_row: int", "scale_row: int", "shift_from: int", "scale_from: int",
//:   "epsilon: float",
//: ]
//: grid  = ["ceil_div(rows, X // min(X, cols // 4)) * X", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 32, 128, 256]}
//: reach.shift = "shift_from + (rows - 1) // tokens * shift_row + cols"
//: reach.scale = "scale_from + (rows - 1) // tokens * scale_row + cols"
//: holds = ["1 <= tokens"]
//: needs.cols = {multiple = 4}
//: needs.shift_row = {multiple = 4}
//: needs.scale_row = {multiple = 4}
//: needs.shift_from = {multiple = 4}
//: needs.scale_from = {multiple = 4}

KERNEL(ada_layer_norm_local)(IN(stg, x), IN(stg, shift), IN(stg, scale), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                             ARG(int, tokens), ARG(int, shift_row), ARG(int, scale_row), ARG(int, shift_from),
                             ARG(int, scale_from), ARG(float, epsilon) GRID) {
  LOCAL(float, lanes, X);
  const int share = MIN(X, cols / 4), each = X / share;  // work-items per row, rows per work-group
  const int lane = LID(0) % share, row = GID(0) / X * each + LID(0) / share;
  const bool live = LID(0) / share < each && row < rows;  // the others wait with the rest
  const int start = live ? row * cols : 0, last = live ? cols : 0, item = live ? row / tokens : 0;
  IN_PTR(stg) plus = shift + shift_from + item * shift_row;
  IN_PTR(stg) times = scale + scale_from + item * scale_row;

  // The first value is taken off first: a mean far above the deviation costs no digits.
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
    STORE4(y, start + i, FMA((LOAD4(x, start + i) - origin - mean) * factor, LOAD4(times, i) + 1.0f, LOAD4(plus, i)));
}
