//: op    = "ConvNhwc"
//: class = "mobile"
//: caps  = []
//: uses  = ["half", "image2d"]
//: why   = """matmul_tiles whose rows are pixels, tap after tap: MR neighbouring pixels by NC vectors of channels in
//:         registers. Any size and stride, from a larger picture that is never made; sums of KB products are half, then
//:         float."""
//: in    = [
//:   "x: tex[n, h, w, ic]", "weight: wtex[ldb // 16 * kh * kw * ic, 16]", "bias: stg[ldb]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "ldb: int", "oh: int", "ow: int", "kh: int", "kw: int",
//:   "stride: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["ldb // (V * NC)", "ceil_div(oh * ow, MR)", "n"]
//: group = ["X", "Y", "1"]
//: tune.V = [4]
//: tune.NV = [4]
//: tune.NC = [4, 2, 1]
//: tune.MR = [4, 1, 2, 8]
//: tune.KB = [32, 16, 64, 128]
//: tune.X = [4, 1, 8, 16]
//: tune.Y = [16, 1, 4, 8]
//: needs = {ic = {multiple = 4}}
//: layout = {tune = ["V", "NV"], by = ["kh", "kw", "ic", "oc"], gives = ["ldb"]}
//: inplace = {residual = ""}
//: reach.weight = "kh * kw * ic * ldb // (1 + W4)"
//: reach.bias = "HAS_BIAS * ldb"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "W8 * ldb + W4 * ceil_div(kh * kw * ic, 32) * ldb"
//: holds = [
//:   "ldb % 16 == 0", "ceil_div(oc, 16) * 16 <= ldb", "1 <= up_h", "1 <= up_w", "up_h * h < 2147483648",
//:   "min(1, max(up_w - w, w - up_w)) * up_w * w < 2147483648",
//:   "oh * stride + kh < 2147483648", "ow * stride + kw < 2147483648",
//:   "W8 + W4 <= 1",
//: ]

#define PARTS (NV / NC)  // work-items per panel

KERNEL(conv2d_tiles)(IN_TEX(x), IN_WTEX(weight), IN(stg, bias), IN(stg, shift), IN(stg, residual), IN(scl, scales),
                     OUT(stg, y), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w), ARG(int, oc), ARG(int, ldb),
                     ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw), ARG(int, stride), ARG(int, pad_top),
                     ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from),
                     ARG(int, shift_row) GRID) {
  const int pixels = oh * ow, panel = GID(0) / PARTS, first = GID(0) % PARTS * NC, top = GID(1) * MR, item = GID(2);
  if (panel * 16 + first * 4 >= oc || top >= pixels || item >= n) return;

  int oy[MR], ox[MR];
  TILE_PATCHES(oy, ox, top, 1)
  vec sum[MR][NC];
  EACH_OF_TILE(i, v) sum[i][v] = SPLAT(0.0f);
  real4 units[NC];
  for (int tap = 0; tap < kh * kw; tap++) {
    const int right = (panel * kh * kw + tap) * ic;  // row of 16 in the weight
    int from[MR];
    bool inside[MR];
    TILE_TAP(from, inside, oy, ox, tap)
    for (int start = 0, end; start < ic; start = end) {
      end = MIN(start + BLOCK(KB, tap * ic + start, ic), ic);
      real4 part[MR][NC];
      EACH_OF_TILE(i, v) part[i][v] = RSPLAT(0.0f);
      PANEL_SCALES(units, scales, panel, kh * kw * ic, tap * ic + start, first)
      for (int c = start; c < end; c += 4) {
        real4 left[MR];
        TILE_PIXELS(left, x, from, inside, c / 4)
        TILE_PRODUCTS(part, left, weight, right + c, first, units)
      }
      EACH_OF_TILE(i, v) sum[i][v] += TO_VEC(part[i][v]);
    }
  }

  STORE_PIXELS(sum, top, 1, first)
}
