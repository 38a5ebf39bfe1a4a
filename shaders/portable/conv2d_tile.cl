//: op    = "Conv"
//: class = "portable"
//: caps  = []
//: why   = """Tiles of OCB channels by ROWS rows by V columns in registers; MB tiles share a staged patch of ICB
//:         input channels."""
//: in    = ["x: stg[n, ic, h, w]", "weight: stg[oc, ic, kh, kw]", "bias: stg[oc]"]
//: out   = ["y: stg[n, oc, oh, ow]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "oh: int", "ow: int", "kh: int", "kw: int", "stride: int",
//:   "pad_top: int", "pad_left: int",
//: ]
//: grid  = ["ceil_div(ow, V)", "ceil_div(oh, ROWS)", "n * ceil_div(oc, OCB * MB)"]
//: group = ["X", "Y", "1"]
//: tune.V = [16, 4, 8]
//: tune.ROWS = [4, 1, 2]
//: tune.OCB = [6, 4, 8]
//: tune.MB = [8, 1, 2, 4]
//: tune.ICB = [16, 1, 4, 8]
//: tune.X = [1, 8, 16]
//: tune.Y = [1, 4, 8]
//: needs = {kh = {max = 3}, kw = {max = 3}, stride = {max = 2}}
//: holds = [
//:   "1 <= stride", "h + pad_top < 2147483648", "w + pad_left < 2147483648", "oh * stride + kh < 2147483648",
//:   "ow * stride + kw < 2147483648",
//: ]

#define MAX_K  3
#define MAX_S  2
#define LINE   (V + MAX_K)                           // one input row of one phase: columns that share (column % stride)
#define PLANE  (((ROWS - 1) * MAX_S + MAX_K) * MAX_S * LINE)

KERNEL(conv2d_tile)(IN(stg, x), IN(stg, weight), IN(stg, bias), OUT(stg, y), ARG(int, n), ARG(int, ic), ARG(int, h),
                    ARG(int, w), ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw), ARG(int, stride),
                    ARG(int, pad_top), ARG(int, pad_left) GRID) {
  const int blocks = (oc + OCB * MB - 1) / (OCB * MB), taps = kh * kw;
  const int ox = GID(0) * V, oy = GID(1) * ROWS, item = GID(2) / blocks, first = GID(2) % blocks * OCB * MB;
  if (ox >= ow || oy >= oh || item >= n) return;
  const int tiles = (MIN(OCB * MB, oc - first) + OCB - 1) / OCB;

  // Which part of the patch lies inside the input is the same for all channels: the rest is zeroed once and never
  // written again.
  const int top = oy * stride - pad_top, left = ox * stride - pad_left;
  const int row0 = MAX(0, -top), row1 = MIN((ROWS - 1) * stride + kh, h - top);
  const int col0 = MAX(0, -left), col1 = MIN((V - 1) * stride + kw, w - left);
  float patch[ICB * PLANE];
  for (int i = 0; i < ICB * PLANE; i++) patch[i] = 0.0f;
  float taps_of[OCB * ICB * MAX_K * MAX_K];
  vec sums[MB * OCB * ROWS];  // where tiles wait between blocks of input channels

  for (int start = 0; start < ic; start += ICB) {
    const int depth = MIN(ICB, ic - start);
    for (int c = 0; c < depth; c++)
      for (int r = row0; r < row1; r++) {
        const int from = ((item * ic + start + c) * h + top + r) * w + left, to = c * PLANE + r * MAX_S * LINE;
        int i = col0;
        if (stride == 1) {
          for (; i + V <= col1; i += V) STOREP(patch, to + i, LOADV(x, from + i));
          for (; i < col1; i++) patch[to + i] = LOAD(x, from + i);
        } else {
          for (; i < col1; i++) patch[to + i % stride * LINE + i / stride] = LOAD(x, from + i);
        }
      }

    for (int tile = 0; tile < tiles; tile++) {
      const int c0 = first + tile * OCB, count = depth * taps;
      for (int c = 0; c < OCB; c++) {
        // channels past the end repeat the last one and are not stored
        const int from = (MIN(c0 + c, oc - 1) * ic + start) * taps;
        int i = 0;
        for (; i + V <= count; i += V) STOREP(taps_of, c * ICB * MAX_K * MAX_K + i, LOADV(weight, from + i));
        for (; i < count; i++) taps_of[c * ICB * MAX_K * MAX_K + i] = LOAD(weight, from + i);
      }
      vec sum[OCB][ROWS];
      for (int c = 0; c < OCB; c++)
        for (int r = 0; r < ROWS; r++)
          sum[c][r] = start == 0 ? SPLAT(LOAD(bias, MIN(c0 + c, oc - 1))) : sums[(tile * OCB + c) * ROWS + r];
      for (int k = 0; k < depth; k++)
        for (int ky = 0; ky < kh; ky++)
          for (int kx = 0; kx < kw; kx++) {
            const int at = k * PLANE + (ky * MAX_S + kx % stride) * LINE + kx / stride, tap = k * taps + ky * kw + kx;
            vec in[ROWS];
            for (int r = 0; r < ROWS; r++) in[r] = LOADP(patch, at + r * stride * MAX_S * LINE);
            for (int c = 0; c < OCB; c++)
              for (int r = 0; r < ROWS; r++)
                sum[c][r] = FMA(SPLAT(taps_of[c * ICB * MAX_K * MAX_K + tap]), in[r], sum[c][r]);
          }
      if (start + ICB < ic) {
        for (int c = 0; c < OCB; c++)
          for (int r = 0; r < ROWS; r++) sums[(tile * OCB + c) * ROWS + r] = sum[c][r];
        continue;
      }
      for (int c = 0; c < OCB; c++)
        for (int r = 0; r < ROWS; r++) {
          if (c0 + c >= oc || oy + r >= oh) continue;
          const int out = ((item * oc + c0 + c) * oh + oy + r) * ow + ox;
          if (ox + V <= ow) {
            STOREV(y, out, sum[c][r]);
          } else {
            STORE_LANES(sum[c][r], out, ow - ox, AS_IS)
          }
        }
    }
  }
}
