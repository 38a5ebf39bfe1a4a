//: op    = ["Attention", "MaskedAttention"]
//: class = "portable"
//: caps  = []
//: after = "attention_scores"
//: why   = """A row's maximum and one over its sum of exponentials: the next product applies them as it loads (paper
//:         3.2). X lanes share a row."""
//: in    = ["x: stg[rows, cols]"]
//: out   = ["stats: f32[rows, 2]"]
//: args  = ["rows: int", "cols: int"]
//: grid  = ["X", "rows", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

KERNEL(softmax_stats)(IN(stg, x), OUT(float, stats), ARG(int, rows), ARG(int, cols) GRID) {
  LOCAL(float, maxima, X);
  LOCAL(float, sums, X);
  const int lane = LID(0), row = GID(1);
  if (row >= rows) return;  // a whole work-group: nobody waits for it
  const int start = row * cols, whole = cols - cols % V;

  // Start from LOWEST, not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN.
  vec high = SPLAT(LOWEST);
  float top = LOWEST, parts[V];
  for (int i = lane * V; i < whole; i += X * V) high = FMAX(high, LOADV(x, start + i));
  STOREP(parts, 0, high);
  for (int j = 0; j < V; j++) top = FMAX(top, parts[j]);
  for (int i = whole + lane; i < cols; i += X) top = FMAX(top, LOAD(x, start + i));
  maxima[lane] = top;
  BARRIER();  // every lane's maximum is there
  for (int i = 0; i < X; i++) top = FMAX(top, maxima[i]);

  vec total = SPLAT(0.0f);
  float sum = 0.0f;
  for (int i = lane * V; i < whole; i += X * V)
    total += EXP2_DOWN((LOADV(x, start + i) - top) * 1.4426950408889634f);
  STOREP(parts, 0, total);
  for (int j = 0; j < V; j++) sum += parts[j];
  for (int i = whole + lane; i < cols; i += X) sum += EXP(LOAD(x, start + i) - top);
  sums[lane] = sum;
  BARRIER();  // every lane's sum is there
  if (lane == 0) {
    for (int i = 1; i < X; i++) sum += sums[i];
    stats[2 * row] = top;
    // The row's maximum alone gives 1. Where all are masked there is next to nothing: it attends to nothing.
    stats[2 * row + 1] = sum < 0.5f ? 0.0f : 1.0f / sum;
  }
}
