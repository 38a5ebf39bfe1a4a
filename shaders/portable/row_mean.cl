//: op    = "ReduceMean"
//: class = "portable"
//: caps  = []
//: why   = "Mean of a row, in blocks that are then added: errors grow with the block, not with the row."
//: in    = ["x: stg[rows, cols]"]
//: out   = ["y: stg[rows]"]
//: args  = ["rows: int", "cols: int"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

KERNEL(row_mean)(IN(stg, x), OUT(stg, y), ARG(int, rows), ARG(int, cols) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols, whole = cols - cols % V;
  float parts[V], sum = 0.0f;
  vec sums = SPLAT(0.0f);
  for (int block = 0; block < whole; block += 64 * V) {
    vec part = SPLAT(0.0f);
    for (int i = block; i < MIN(block + 64 * V, whole); i += V) part += LOADV(x, start + i);
    sums += part;
  }
  STOREP(parts, 0, sums);
  for (int j = 0; j < V; j++) sum += parts[j];
  for (int i = whole; i < cols; i++) sum += LOAD(x, start + i);
  STORE(y, row, sum / (float)cols);
}
