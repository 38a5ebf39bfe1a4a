//: op    = "Geglu"
//: class = "portable"
//: caps  = []
//: why   = """value * gelu(gate) of both halves of a row, instead of two copies and six passes. A work-item does STEPS
//:         vectors of a row."""
//: in    = ["x: stg[rows, 2 * cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int"]
//: grid  = ["ceil_div(cols, V * STEPS)", "rows", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}

KERNEL(geglu)(IN(stg, x), OUT(stg, y), ARG(int, rows), ARG(int, cols) GRID) {
  const int first = GID(0) * V * STEPS, row = GID(1);
  if (first >= cols || row >= rows) return;
  const int last = MIN(first + V * STEPS, cols), value = row * 2 * cols, gate = value + cols, out = row * cols;
  int i = first;
  for (; i + V <= last; i += V) {
    const vec g = LOADV(x, gate + i);
    STOREV(y, out + i, LOADV(x, value + i) * GELU(g));
  }
  for (; i < last; i++) {
    const float g = LOAD(x, gate + i);
    STORE(y, out + i, LOAD(x, value + i) * GELU(g));
  }
}
