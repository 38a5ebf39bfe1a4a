//: op    = "RmsNorm"
//: class = "cpu"
//: caps  = []
//: why   = """As rms_norm, R rows one after another, which are read as they lie: what one's sum of lanes waits for, the
//:         others do not."""
//: in    = ["x: stg[rows, cols]", "weight: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = [
//:   "rows: int", "cols: int", "heads: int", "tokens: int", "x_row: int", "x_from: int", "x_batch: int", "y_from: int",
//:   "y_batch: int", "epsilon: float",
//: ]
//: grid  = ["ceil_div(rows, R)", "1", "1"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16, 4, 8], R = [4, 1, 8, 16]}
//: needs = {cols = {multiple = "V"}}
//: reach.x = "x_from + (rows // heads // tokens - 1) * x_batch + (tokens - 1) * x_row + heads * cols"
//: reach.y = "y_from + (rows // heads // tokens - 1) * y_batch + tokens * heads * cols"
//: holds = ["1 <= heads", "1 <= tokens", "rows % (heads * tokens) == 0"]

KERNEL(rms_norm_rows)(IN(stg, x), IN(stg, weight), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, heads),
                      ARG(int, tokens), ARG(int, x_row), ARG(int, x_from), ARG(int, x_batch), ARG(int, y_from),
                      ARG(int, y_batch), ARG(float, epsilon) GRID) {
  const int first = GID(0) * R;
  if (first >= rows) return;
  int start[R], out[R];
  float factor[R];
  int head = first % heads, token = first / heads % tokens, item = first / heads / tokens;
  EACH_ROW(r) {
    start[r] = x_from + item * x_batch + token * x_row + head * cols;
    out[r] = y_from + item * y_batch + (token * heads + head) * cols;
    if (first + r + 1 < rows && ++head == heads) {  // the last row may be computed more than once
      head = 0;
      if (++token == tokens) {
        token = 0;
        item++;
      }
    }
  }
  EACH_ROW(r) {
    vec squares = SPLAT(0.0f);
    for (int block = 0; block < cols; block += 64 * V) {  // errors grow with the block, not with the row
      vec part = SPLAT(0.0f);
      for (int i = block; i < MIN(block + 64 * V, cols); i += V) {
        const vec some = LOADV(x, start[r] + i);
        part = FMA(some, some, part);
      }
      squares += part;
    }
    LANES_SUM(factor[r], squares)
  }
  EACH_ROW(r) factor[r] = RSQRT(factor[r] / (float)cols + epsilon);

  EACH_ROW(r)
    for (int i = 0; i < cols; i += V)
      STOREV(y, out[r] + i, LOADV(x, start[r] + i) * factor[r] * LOADV(weight, i));
}
