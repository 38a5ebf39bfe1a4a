//: op    = "RmsNorm"
//: class = "portable"
//: caps  = []
//: why   = """A row over the root of its mean square, times a weight per column; squares are added in blocks. A row is
//:         one of `heads` parts of a token, which may be a part of a wider row; items may stand apart."""
//: in    = ["x: stg[rows, cols]", "weight: stg[cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = [
//:   "rows: int", "cols: int", "heads: int", "tokens: int", "x_row: int", "x_from: int", "x_batch: int", "y_from: int",
//:   "y_batch: int", "epsilon: float",
//: ]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: reach.x = "x_from + (rows // heads // tokens - 1) * x_batch + (tokens - 1) * x_row + heads * cols"
//: reach.y = "y_from + (rows // heads // tokens - 1) * y_batch + tokens * heads * cols"
//: holds = ["1 <= heads", "1 <= tokens", "rows % (heads * tokens) == 0"]

KERNEL(rms_norm)(IN(stg, x), IN(stg, weight), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, heads),
                 ARG(int, tokens), ARG(int, x_row), ARG(int, x_from), ARG(int, x_batch), ARG(int, y_from),
                 ARG(int, y_batch), ARG(float, epsilon) GRID) {
  const int row = GID(0), whole = cols - cols % V;
  if (row >= rows) return;
  const int item = row / heads / tokens, token = row / heads % tokens;
  const int start = x_from + item * x_batch + token * x_row + row % heads * cols;
  const int out = y_from + item * y_batch + (token * heads + row % heads) * cols;
  float parts[V], square = 0.0f;
  vec squares = SPLAT(0.0f);
  for (int block = 0; block < whole; block += 64 * V) {
    vec part = SPLAT(0.0f);
    for (int i = block; i < MIN(block + 64 * V, whole); i += V) {
      const vec some = LOADV(x, start + i);
      part = FMA(some, some, part);
    }
    squares += part;
  }
  STOREP(parts, 0, squares);
  for (int j = 0; j < V; j++) square += parts[j];
  for (int i = whole; i < cols; i++) square = FMA(LOAD(x, start + i), LOAD(x, start + i), square);
  const float factor = RSQRT(square / (float)cols + epsilon);

  for (int i = 0; i < whole; i += V) STOREV(y, out + i, LOADV(x, start + i) * factor * LOADV(weight, i));
  for (int i = whole; i < cols; i++) STORE(y, out + i, LOAD(x, start + i) * factor * LOAD(weight, i));
}
