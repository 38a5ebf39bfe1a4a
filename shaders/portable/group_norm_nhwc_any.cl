//: op    = "GroupNormNhwc"
//: class = "portable"
//: caps  = []
//: why   = "The general fallback: one work-item per group, channel by channel. For groups that fill no vectors."
//: in    = ["x: stg[n, pixels, c1]", "x2: stg[n, pixels, channels]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[n, pixels, channels]"]
//: args  = ["n: int", "pixels: int", "channels: int", "c1: int", "per_group: int", "epsilon: float"]
//: grid  = ["channels // per_group", "n", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [1, 64]}
//: needs = {}
//: reach = {x2 = "n * pixels * (channels - c1)"}
//: holds = ["channels % per_group == 0", "c1 <= channels"]

#define CHANNEL(c) ((c) < c1 ? x + item * pixels * c1 + (c) : x2 + item * pixels * (channels - c1) + (c) - c1)
#define ROW(c) ((c) < c1 ? c1 : channels - c1)

KERNEL(group_norm_nhwc_any)(IN(stg, x), IN(stg, x2), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, n),
                            ARG(int, pixels), ARG(int, channels), ARG(int, c1), ARG(int, per_group),
                            ARG(float, epsilon) GRID) {
  const int first = GID(0) * per_group, item = GID(1);
  if (first >= channels || item >= n) return;
  const float origin = LOAD(CHANNEL(first), 0), count = (float)pixels * (float)per_group;

  float sum = 0.0f;
  for (int c = first; c < first + per_group; c++) {
    float part = 0.0f;
    for (int p = 0; p < pixels; p++) part += LOAD(CHANNEL(c), p * ROW(c)) - origin;
    sum += part;
  }
  const float mean = sum / count;  // less origin

  float square = 0.0f;
  for (int c = first; c < first + per_group; c++) {
    float part = 0.0f;
    for (int p = 0; p < pixels; p++) {
      const float d = LOAD(CHANNEL(c), p * ROW(c)) - origin - mean;
      part = FMA(d, d, part);
    }
    square += part;
  }
  const float factor = RSQRT(square / count + epsilon);

  for (int c = first; c < first + per_group; c++) {
    const float gain = LOAD(scale, c) * factor, shift = LOAD(bias, c);
    for (int p = 0; p < pixels; p++) {
      const float z = FMA(LOAD(CHANNEL(c), p * ROW(c)) - origin - mean, gain, shift);
      STORE(y, (item * pixels + p) * channels + c, ACTIVATE(z));
    }
  }
}
