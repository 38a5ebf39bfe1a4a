//: op    = "GroupNorm"
//: class = "portable"
//: caps  = []
//: why   = "Norm over a group of channels, scale, shift and, an activation: one command instead of seven (paper 3.1)."
//: in    = ["x: stg[rows, cols]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "hw: int", "channels: int", "per_group: int", "epsilon: float"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: holds = ["per_group * hw == cols", "channels % per_group == 0"]

KERNEL(group_norm)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, hw),
                   ARG(int, channels), ARG(int, per_group), ARG(float, epsilon) GRID) {
  const int row = GID(0);  // one group of one item: its channels stand together in NCHW
  if (row >= rows) return;
  const int start = row * cols;
  float origin, mean, factor;
  ROW_STATISTICS(x, start, cols, epsilon, origin, mean, factor)

  for (int c = 0; c < per_group; c++) {
    const int channel = row * per_group % channels + c, from = start + c * hw;
    const float gain = LOAD(scale, channel) * factor, shift = LOAD(bias, channel);
    int i = 0;
    for (; i + V <= hw; i += V) {
      const vec z = FMA(LOADV(x, from + i) - origin - mean, SPLAT(gain), SPLAT(shift));
      STOREV(y, from + i, ACTIVATE(z));
    }
    for (; i < hw; i++) {
      const float z = FMA(LOAD(x, from + i) - origin - mean, gain, shift);
      STORE(y, from + i, ACTIVATE(z));
    }
  }
}
