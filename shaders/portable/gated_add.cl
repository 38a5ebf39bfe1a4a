//: op    = "GatedAdd"
//: class = "portable"
//: caps  = []
//: why   = "x + gate * z: a gate per item and column, which may be a part of a wider row. A work-item does STEPS vectors."
//: in    = ["x: stg[rows, cols]", "gate: stg[rows, cols]", "z: stg[rows, cols]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "tokens: int", "gate_row: int", "gate_from: int"]
//: grid  = ["ceil_div(cols, V * STEPS)", "rows", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [128, 1, 4], X = [1, 64]}
//: needs = {}
//: inplace = {x = ""}
//: reach.gate = "gate_from + (rows - 1) // tokens * gate_row + cols"
//: holds = ["1 <= tokens"]

KERNEL(gated_add)(IN(stg, x), IN(stg, gate), IN(stg, z), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                  ARG(int, tokens), ARG(int, gate_row), ARG(int, gate_from) GRID) {
  const int first = GID(0) * V * STEPS, row = GID(1);
  if (first >= cols || row >= rows) return;
  const int last = MIN(first + V * STEPS, cols), start = row * cols;
  IN_PTR(stg) times = gate + gate_from + row / tokens * gate_row;
  int i = first;
  for (; i + V <= last; i += V)
    STOREV(y, start + i, FMA(LOADV(times, i), LOADV(z, start + i), LOADV(OVERWRITTEN(x, y), start + i)));
  for (; i < last; i++)
    STORE(y, start + i, FMA(LOAD(times, i), LOAD(z, start + i), LOAD(OVERWRITTEN(x, y), start + i)));
}
