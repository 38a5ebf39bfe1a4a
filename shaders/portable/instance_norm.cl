//: op    = "InstanceNormalization"
//: class = "portable"
//: caps  = []
//: why   = """Mean, then variance of the centred values, less the row's first value: a mean far above the deviation
//:         costs no digits."""
//: in    = ["x: stg[rows, cols]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "channels: int", "epsilon: float"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

KERNEL(instance_norm)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols),
                      ARG(int, channels), ARG(float, epsilon) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols, whole = cols - cols % V;
  float origin, mean, factor;
  ROW_STATISTICS(x, start, cols, epsilon, origin, mean, factor)

  const int channel = row % channels;
  const float gain = LOAD(scale, channel) * factor, shift = LOAD(bias, channel);
  for (int i = 0; i < whole; i += V)
    STOREV(y, start + i, FMA(LOADV(x, start + i) - origin - mean, SPLAT(gain), SPLAT(shift)));
  for (int i = whole; i < cols; i++) STORE(y, start + i, FMA(LOAD(x, start + i) - origin - mean, gain, shift));
}
