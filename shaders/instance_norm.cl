//: op    = "InstanceNormalization"
//: why   = "Mean, then variance of the centred values, less the row's first value: a mean far above the deviation costs no digits."
//: in    = ["x: stg[rows, cols]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[rows, cols]"]
//: args  = ["rows: int", "cols: int", "channels: int", "epsilon: float"]
//: grid  = ["rows", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}

#define BLOCK (64 * V)  // sums are kept for each block, then added: errors grow with the block, not with the row

KERNEL(instance_norm)(IN(stg, x), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, rows), ARG(int, cols), ARG(int, channels),
                      ARG(float, epsilon) GRID) {
  const int row = GID(0);
  if (row >= rows) return;
  const int start = row * cols, whole = cols - cols % V;
  const float origin = LOAD(x, start);
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

  const int channel = row % channels;
  const float gain = LOAD(scale, channel) * RSQRT(square / (float)cols + epsilon), shift = LOAD(bias, channel);
  for (int i = 0; i < whole; i += V) STOREV(y, start + i, FMA(LOADV(x, start + i) - origin - mean, SPLAT(gain), SPLAT(shift)));
  for (int i = whole; i < cols; i++) STORE(y, start + i, FMA(LOAD(x, start + i) - origin - mean, gain, shift));
}
