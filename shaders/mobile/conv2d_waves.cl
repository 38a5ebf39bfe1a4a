//: op    = "ConvNhwc"
//: class = "mobile"
//: caps  = ["wave_constants"]
//: uses  = ["half", "image2d", "wave_constants"]
//: why   = """matmul_waves whose rows are pixels, tap after tap: work-items side by side have MR pixels each of the same
//:         16 channels, whose weights come 16 rows at a time to where all of them read one constant at no cost."""
//: in    = [
//:   "x: tex[n, h, w, ic]", "weight: blocks[ldb // 16 * kh * kw * ic, 16]", "stage: stage[3072]", "bias: stg[ldb]",
//:   "shift: stg[n, oc]", "residual: stg[n, oh, ow, oc]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "ldb: int", "oh: int", "ow: int", "kh: int", "kw: int",
//:   "stride: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["X * ceil_div(oh * ow, X * MR)", "ldb // (V * NV)", "n"]
//: group = ["X", "1", "1"]
//: tune  = {V = [4], NV = [4], NC = [4], MR = [2, 1], KB = [64, 16, 32, 128], X = [64, 32, 128]}
//: needs = {ic = {multiple = 16}, oc = {min = 16}}
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

WAVE_KERNEL
KERNEL(conv2d_waves)(IN_TEX(x), IN_BLOCKS(weight), IN_STAGE(stage), IN(stg, bias), IN(stg, shift), IN(stg, residual),
                     IN(scl, scales), OUT(stg, y), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w), ARG(int, oc),
                     ARG(int, ldb), ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw), ARG(int, stride),
                     ARG(int, pad_top), ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from),
                     ARG(int, shift_row) GRID) {
  LOCAL(real4, block, 64);
  STAGE(block, stage)
  const int pixels = oh * ow, panel = GID(1), top = GID(0) / X * X * MR + LID(0), item = GID(2);

  int oy[MR], ox[MR];
  TILE_PATCHES(oy, ox, top, X)
  vec sum[MR][NC];
  EACH_OF_TILE(i, v) sum[i][v] = SPLAT(0.0f);
  for (int tap = 0; tap < kh * kw; tap++) {
    const int right = (panel * kh * kw + tap) * ic;  // row of 16 in the weight
    int from[MR];
    bool inside[MR];
    TILE_TAP(from, inside, oy, ox, tap)
    for (int start = 0, end; start < ic; start = end) {
      end = MIN(start + BLOCK(KB, tap * ic + start, ic), ic);
      real4 part[MR][NC];
      EACH_OF_TILE(i, v) part[i][v] = RSPLAT(0.0f);
      for (int c = start; c < end; c += 16) {
        STAGE_BLOCK(block, stage, weight, (right + c) * 16, scales, PANEL_UNITS(panel, kh * kw * ic, tap * ic + c))
        for (int r = 0; r < 16; r += 4) {
          real4 left[MR];
          TILE_PIXELS(left, x, from, inside, (c + r) / 4)
          WAVE_PRODUCTS(part, left, block, r)
        }
      }
      EACH_OF_TILE(i, v) sum[i][v] += TO_VEC(part[i][v]);
    }
  }

  STORE_PIXELS(sum, top, X, 0)
}
