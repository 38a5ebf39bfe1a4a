//: op    = "NormalizeNhwc"
//: class = "portable"
//: caps  = []
//: why   = """GroupNorm whose statistics are known: of a whole picture, applied to a band of it. A work-item does STEPS
//:         pixels of one vector of channels."""
//: in    = [
//:   "x: stg[pixels, channels]", "mean: f32[groups]", "variance: f32[groups]", "scale: stg[channels]",
//:   "bias: stg[channels]",
//: ]
//: out   = ["y: stg[pixels, channels]"]
//: args  = ["pixels: int", "channels: int", "groups: int", "per_group: int", "epsilon: float"]
//: grid  = ["ceil_div(channels, V)", "ceil_div(pixels, STEPS)", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [256, 16, 1], X = [1, 8, 64]}
//: needs = {}
//: inplace = {x = ""}
//: holds = ["channels <= groups * per_group"]

KERNEL(normalize_nhwc)(IN(stg, x), IN(float, mean), IN(float, variance), IN(stg, scale), IN(stg, bias), OUT(stg, y),
                       ARG(int, pixels), ARG(int, channels), ARG(int, groups), ARG(int, per_group),
                       ARG(float, epsilon) GRID) {
  const int first = GID(0) * V, start = GID(1) * STEPS;
  if (first >= channels || start >= pixels) return;
  const int last = MIN(start + STEPS, pixels), lanes = MIN(V, channels - first);

  float means[V], gains[V], shifts[V];
  for (int c = 0; c < V; c++) {
    const int channel = MIN(first + c, channels - 1), group = channel / per_group;
    means[c] = mean[group];
    gains[c] = LOAD(scale, channel) * RSQRT(variance[group] + epsilon);
    shifts[c] = LOAD(bias, channel);
  }
  if (lanes == V) {
    const vec middle = LOADP(means, 0), gain = LOADP(gains, 0), shift = LOADP(shifts, 0);
    for (int p = start; p < last; p++) {
      vec z[1];
      z[0] = FMA(LOADV(OVERWRITTEN(x, y), p * channels + first) - middle, gain, shift);
      ACTIVATE_EACH(z, 1)
      STOREV(y, p * channels + first, z[0]);
    }
    return;
  }
  for (int p = start; p < last; p++)
    for (int c = 0; c < lanes; c++) {
      const float z = FMA(LOAD(OVERWRITTEN(x, y), p * channels + first + c) - means[c], gains[c], shifts[c]);
      STORE(y, p * channels + first + c, ACTIVATE(z));
    }
}
