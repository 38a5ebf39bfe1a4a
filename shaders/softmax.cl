//: op    = "Softmax"
//: why   = "Rows of exp(x - max) / sum. One work-item a row: the row stays in its cache between the passes."
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
  float parts[V];

  // Start from LOWEST, not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN. A row masked everywhere gives 0 / 0 = NaN,
  // as ONNX's formula does... see below: its sum is 0.
  vec high = SPLAT(LOWEST);
  int i = 0;
  for (; i + V <= cols; i += V) high = FMAX(high, LOADV(x, start + i));
  STOREP(parts, 0, high);
  float top = LOWEST;
  for (; i < cols; i++) top = FMAX(top, LOAD(x, start + i));
  for (int j = 0; j < V; j++) top = FMAX(top, parts[j]);

  vec sums = SPLAT(0.0f);
  i = 0;
  for (; i + V <= cols; i += V) sums += EXP(LOADV(x, start + i) - top);
  float sum = 0.0f;
  for (; i < cols; i++) sum += EXP(LOAD(x, start + i) - top);
  STOREP(parts, 0, sums);
  for (int j = 0; j < V; j++) sum += parts[j];

  const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
  i = 0;
  for (; i + V <= cols; i += V) STOREV(y, start + i, EXP(LOADV(x, start + i) - top) * scale);
  for (; i < cols; i++) STORE(y, start + i, EXP(LOAD(x, start + i) - top) * scale);
}
