//: op    = "Softmax"
//: class = "portable"
//: caps  = []
//: why   = "Rows of exp(x - max) / sum. One work-item per row: the row stays in its cache between the passes."
//: in    = ["x: stg[rows, cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

KERNEL(softmax)(IN(stg, x), OUT(stg, y), ARG(int, rows), ARG(int, cols) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols;

  // Start from LOWEST, not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN.
  float top = LOWEST;
  if (cols < V) {
    float sum = 0.0f;
    for (int i = 0; i < cols; i++) top = FMAX(top, LOAD(x, start + i));
    for (int i = 0; i < cols; i++) sum += EXP(LOAD(x, start + i) - top);
    const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int i = 0; i < cols; i++) STORE(y, start + i, EXP(LOAD(x, start + i) - top) * scale);
    return;
  }

  // The last vector ends at the last column, so it may overlap the one before: `fresh` is 0 where a column was
  // counted already.
  float parts[V];
  const int tail = start + cols - V, rest = cols % V;
  for (int j = 0; j < V; j++) parts[j] = j < V - rest ? 0.0f : 1.0f;
  const vec fresh = LOADP(parts, 0);

  vec high = LOADV(x, tail);
  for (int i = 0; i + V <= cols; i += V) high = FMAX(high, LOADV(x, start + i));
  STOREP(parts, 0, high);
  for (int j = 0; j < V; j++) top = FMAX(top, parts[j]);

  vec sums = EXP(LOADV(x, tail) - top) * fresh;
  for (int i = 0; i + V <= cols; i += V) sums += EXP(LOADV(x, start + i) - top);
  STOREP(parts, 0, sums);
  float sum = 0.0f;
  for (int j = 0; j < V; j++) sum += parts[j];

  // A row that is masked everywhere has sum 0 and gives zeros: it attends to nothing. NaN is not hidden.
  const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
  for (int i = 0; i + V <= cols; i += V) STOREV(y, start + i, EXP(LOADV(x, start + i) - top) * scale);
  if (rest > 0) STOREV(y, tail, EXP(LOADV(x, tail) - top) * scale);
}
