//: op    = "Conv"
//: class = "portable"
//: caps  = []
//: why   = """The general fallback: any kernel size and stride, every load checked. Its faster siblings take
//:         what they can."""
//: in    = ["x: stg[n, ic, h, w]", "weight: stg[oc, ic, kh, kw]", "bias: stg[oc]"]
//: out   = ["y: stg[n, oc, oh, ow]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "oh: int", "ow: int", "kh: int", "kw: int", "stride: int",
//:   "pad_top: int", "pad_left: int",
//: ]
//: grid  = ["ceil_div(ow, V)", "ceil_div(oh, ROWS)", "n * ceil_div(oc, OCB)"]
//: group = ["X", "Y", "1"]
//: tune  = {V = [16, 4, 8], ROWS = [4, 1, 2], OCB = [6, 4, 8], X = [1, 8, 16], Y = [1, 8, 4]}
//: needs = {}
//: holds = ["oh * stride + kh < 2147483648", "ow * stride + kw < 2147483648"]

KERNEL(conv2d)(IN(stg, x), IN(stg, weight), IN(stg, bias), OUT(stg, y), ARG(int, n), ARG(int, ic), ARG(int, h),
               ARG(int, w), ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw), ARG(int, stride),
               ARG(int, pad_top), ARG(int, pad_left) GRID) {
  const int blocks = (oc + OCB - 1) / OCB;
  const int ox = GID(0) * V, oy = GID(1) * ROWS, item = GID(2) / blocks, c0 = GID(2) % blocks * OCB;
  if (ox >= ow || oy >= oh || item >= n) return;

  vec sum[OCB][ROWS];
  for (int c = 0; c < OCB; c++)
    for (int r = 0; r < ROWS; r++) sum[c][r] = SPLAT(LOAD(bias, MIN(c0 + c, oc - 1)));

  const int taps = kh * kw;
  for (int channel = 0; channel < ic; channel++) {
    IN_PTR(stg) plane = x + (item * ic + channel) * h * w;
    for (int ky = 0; ky < kh; ky++)
      for (int kx = 0; kx < kw; kx++) {
        vec in[ROWS];
        for (int r = 0; r < ROWS; r++) {
          float line[V];
          const int iy = (oy + r) * stride + ky - pad_top;
          for (int j = 0; j < V; j++) {
            const int ix = (ox + j) * stride + kx - pad_left;
            line[j] = iy >= 0 && iy < h && ix >= 0 && ix < w ? LOAD(plane, iy * w + ix) : 0.0f;
          }
          in[r] = LOADP(line, 0);
        }
        for (int c = 0; c < OCB; c++) {
          const vec tap = SPLAT(LOAD(weight, (MIN(c0 + c, oc - 1) * ic + channel) * taps + ky * kw + kx));
          for (int r = 0; r < ROWS; r++) sum[c][r] = FMA(tap, in[r], sum[c][r]);
        }
      }
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
