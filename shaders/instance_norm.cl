//: op    = "InstanceNormalization"
//: why   = "Two passes (mean, then variance of the centred values), so a mean far above the deviation costs no digits."
//: in    = ["x: stg[rows, cols]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "channels: int", "epsilon: float"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

KERNEL(instance_norm)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, channels),
                      ARG(float, epsilon) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols;
  float parts[V];

  vec sums = SPLAT(0.0f);
  float sum = 0.0f;
  int i = 0;
  for (; i + V <= cols; i += V) sums += LOADV(x, start + i);
  for (; i < cols; i++) sum += LOAD(x, start + i);
  STOREP(parts, 0, sums);
  for (int j = 0; j < V; j++) sum += parts[j];
  const float mean = sum / (float)cols;

  vec squares = SPLAT(0.0f);
  float square = 0.0f;
  i = 0;
  for (; i + V <= cols; i += V) {
    const vec d = LOADV(x, start + i) - mean;
    squares = FMA(d, d, squares);
  }
  for (; i < cols; i++) {
    const float d = LOAD(x, start + i) - mean;
    square = FMA(d, d, square);
  }
  STOREP(parts, 0, squares);
  for (int j = 0; j < V; j++) square += parts[j];

  const int channel = row % channels;
  const float gain = LOAD(scale, channel) * RSQRT(square / (float)cols + epsilon), shift = LOAD(bias, channel);
  i = 0;
  for (; i + V <= cols; i += V) STOREV(y, start + i, FMA(LOADV(x, start + i) - mean, SPLAT(gain), SPLAT(shift)));
  for (; i < cols; i++) STORE(y, start + i, FMA(LOAD(x, start + i) - mean, gain, shift));
}
