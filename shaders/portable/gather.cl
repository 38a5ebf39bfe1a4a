//: op    = "Gather"
//: class = "portable"
//: caps  = []
//: why   = """Copies rows of a table by index: token and position embeddings. An index outside the table is
//:         clamped into it."""
//: in    = ["ids: i32[count]", "table: bits[rows, cols]"]
//: out   = ["y: bits[count, cols]"]
//: args  = ["count: int", "rows: int", "cols: int"]
//: grid  = ["ceil_div(cols, V * STEPS)", "count", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}

KERNEL(gather)(IN(int, ids), IN(bits, table), OUT(bits, y), ARG(int, count), ARG(int, rows), ARG(int, cols) GRID) {
  const int first = GID(0) * V * STEPS, item = GID(1);
  if (first >= cols || item >= count) return;
  const int last = MIN(first + V * STEPS, cols);
  const int from = MAX(0, MIN(ids[item], rows - 1)) * cols, to = item * cols;
  int i = first;
  for (; i + V <= last; i += V) COPYV(y + to + i, table + from + i);
  for (; i < last; i++) y[to + i] = table[from + i];
}
