//: op    = "GroupNorm"
//: why   = "Norm over a group of channels, scale, shift and, an activation: one command instead of seven (paper 3.1)."
//: in    = ["x: stg[rows, cols]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "hw: int", "channels: int", "per_group: int", "epsilon: float"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: holds = ["per_group * hw == cols", "channels % per_group == 0"]

#define BLOCK (64 * V)  // sums are kept for each block, then added: errors grow with the block, not with the row

KERNEL(group_norm)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, hw),
                   ARG(int, channels), ARG(int, per_group), ARG(float, epsilon) GRID) {
  const int row = GID(0);  // one group of one item: its channels stand together in NCHW
  if (row >= rows) return;
  const int start = row * cols, whole = cols - cols % V;
  const float origin = LOAD(x, start);  // taken off first: a mean far above the deviation costs no digits
  float parts[V];

  float sum = 0.0f;
  vec sums = SPLAT(0.0f);
  for (int block = 0; block < whole; block += BLOCK) {
    vec part = SPLAT(0.0f);
    for (int i = block; i < MIN(block + BLOCK, whole); i += V) part += LOADV(x, start + i) - origin;
    sums += part;
  }
  STOREP(parts, 0, sums);
  for (int j = 0; j < V; j++) sum += parts[j];
  for (int i = whole; i < cols; i++) sum += LOAD(x, start + i) - origin;
  const float mean = sum / (float)cols;  // less origin

  float square = 0.0f;
  vec squares = SPLAT(0.0f);
  for (int block = 0; block < whole; block += BLOCK) {
    vec part = SPLAT(0.0f);
    for (int i = block; i < MIN(block + BLOCK, whole); i += V) {
      const vec d = LOADV(x, start + i) - origin - mean;
      part = FMA(d, d, part);
    }
    squares += part;
  }
  STOREP(parts, 0, squares);
  for (int j = 0; j < V; j++) square += parts[j];
  for (int i = whole; i < cols; i++) {
    const float d = LOAD(x, start + i) - origin - mean;
    square = FMA(d, d, square);
  }
  const float factor = RSQRT(square / (float)cols + epsilon);

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
