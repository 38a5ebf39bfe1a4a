//: op    = ["SinCos", "CosSin"]
//: class = "portable"
//: caps  = []
//: why   = """The sinusoidal embedding of a timestep: sines and cosines of t times each frequency, in one command
//:         instead of five."""
//: in    = ["t: stg[rows]", "frequencies: stg[half]"]
//: out   = ["y: stg[rows, 2 * half]"]
//: args  = ["rows: int", "half_width: int"]
//: grid  = ["half_width", "rows", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [1, 64]}
//: needs = {}
//: reach = {frequencies = "half_width", y = "2 * rows * half_width"}

KERNEL(sin_cos)(IN(stg, t), IN(stg, frequencies), OUT(stg, y), ARG(int, rows), ARG(int, half_width) GRID) {
  const int i = GID(0), row = GID(1);
  if (i >= half_width || row >= rows) return;
  const float angle = LOAD(t, row) * LOAD(frequencies, i);
#if OP_SinCos
  const float first = SIN(angle), second = COS(angle);
#else
  const float first = COS(angle), second = SIN(angle);
#endif
  STORE(y, 2 * row * half_width + i, first);
  STORE(y, 2 * row * half_width + half_width + i, second);
}
