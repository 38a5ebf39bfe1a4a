//: op    = "ConvNhwc"
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16", "bf16x3"]
//: why   = """A rectangle of the picture becomes bf16 in scratch, once, KW times shifted by a column, so that under each
//:         tap pixels are rows of a product; blocks of 2 by 2 tiles sum over taps and DEPTH channels."""
//: in    = [
//:   "x: stg[n, h, w, ic]", "weight: wgt[kh, kw, ic, ldb]", "bias: stg[ldb]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]", "scratch: f32[groups, slot]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "ldb: int", "oh: int", "ow: int", "kh: int", "kw: int",
//:   "stride: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//:   "rows: int", "cols: int", "share: int", "groups: int", "slot: int",
//: ]
//: grid  = ["groups", "1", "1"]
//: group = ["1", "1", "1"]
//: tune.V = [16]
//: tune.NV = [2]
//: tune.DEPTH = [64, 32, 128, 320]
//: needs = {}
//: layout = {tune = ["V", "NV"], by = ["kh", "kw", "ic", "oc"], gives = ["ldb", "groups", "slot"]}
//: inplace = {residual = ""}
//: reach.weight = "kh * kw * ic * ldb // (1 + W4)"
//: reach.bias = "HAS_BIAS * ldb"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "W8 * ldb + W4 * ceil_div(kh * kw * ic, 32) * ldb"
//: holds = [
//:   "ldb % (V * NV) == 0", "oc <= ldb", "W8 + W4 <= 1", "1 <= up_h", "1 <= up_w", "up_h * h < 2147483648",
//:   "min(1, max(up_w - w, w - up_w)) * up_w * w < 2147483648",
//:   "oh * stride + rows * stride + kh < 2147483648", "ow * stride + cols * stride + kw < 2147483648",
//:   "1 <= rows", "1 <= cols", "1 <= share", "1 <= stride", "ldb + share < 2147483648",
//:   "(rows * cols + 32) * V * NV + (1 + MATH_bf16x3) * DEPTH // 2 * (kh * kw * V * NV + ceil_div(ic, DEPTH) * (kw * min(stride, kh) * (rows + (kh - 1) // stride) * cols + 32)) <= slot",
//:   "n * ceil_div(oh, rows) * ceil_div(ow, cols) * ceil_div(ldb // (V * NV), share) + groups < 2147483648",
//: ]

#define WIDE (V * NV)  // columns of a panel, as many as a block has
#define PIXEL (DEPTH / 2)  // elements of scratch that a pixel's channels of one block of DEPTH take
#define SLACK 32  // pixels of scratch past the last one: no block has more

KERNEL(conv2d_bf16)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual), IN(scl, scales),
                    OUT(stg, y), OUT(float, scratch), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w),
                    ARG(int, oc), ARG(int, ldb), ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw),
                    ARG(int, stride), ARG(int, pad_top), ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w),
                    ARG(int, shift_from), ARG(int, shift_row), ARG(int, rows), ARG(int, cols), ARG(int, share),
                    ARG(int, groups), ARG(int, slot) GRID) {
  if (GID(0) >= groups) return;
  // Rows of the picture that are `stride` apart stand one after another, so that the pixels under a tap always do.
  const int phases = MIN(stride, kh), below = (kh - 1) / stride, plane = (rows + below) * cols;
  const int part = (kw * phases * plane + SLACK) * PIXEL, parts = (ic + DEPTH - 1) / DEPTH;
  const int left_low = parts * part, right_low = kh * kw * PIXEL * WIDE;
  const int panels = ldb / WIDE, chunks = (panels + share - 1) / share;
  const int across = (ow + cols - 1) / cols, down = (oh + rows - 1) / rows;
  OUT_PTR(float) sums = scratch + GID(0) * slot;
  OUT_PTR(uint) right = (OUT_PTR(uint))(sums + (rows * cols + SLACK) * WIDE);
  OUT_PTR(uint) left = right + MAT_PARTS * right_low;
  MAT_BEGIN

  for (int task = GID(0); task < n * down * across * chunks; task += groups) {
    const int x0 = task / chunks % across * cols, y0 = task / chunks / across % down * rows;
    const int item = task / chunks / across / down, high = MIN(rows, oh - y0), count = high * cols;
    for (int i = 0; i < kw * phases * (high + below) * cols; i++) {
      const int col = i % cols, line = i / cols % (high + below), phase = i / cols / (high + below);
      const int iy = (y0 + line) * stride + phase % phases - pad_top, ix = (x0 + col) * stride + phase / phases - pad_left;
      // up_h by up_w is the picture once repeated to its larger size (nearest neighbour); h by w as it is stored.
      const int inside = iy >= 0 && iy < up_h && ix >= 0 && ix < up_w;
      const int from = inside ? ((item * h + NEAREST(iy, h, up_h)) * w + NEAREST(ix, w, up_w)) * ic : 0;
      OUT_PTR(uint) pixel = left + (phase * plane + line * cols + col) * PIXEL;
      for (int c = 0; c < (ic + 31) / 32 * 32; c += V) {
        vec some = SPLAT(0.0f);
        if (inside && c + V <= ic) some = LOADV(x, from + c);
        else if (inside && c < ic) {
          float lanes[V];
          for (int l = 0; l < V; l++) lanes[l] = c + l < ic ? LOAD(x, from + c + l) : 0.0f;
          some = LOADP(lanes, 0);
        }
        STORE_PAIRS(pixel, left_low, c / DEPTH * part + c % DEPTH / 2, some)
      }
    }

    for (int panel = task % chunks * share; panel < MIN(task % chunks * share + share, panels); panel++) {
      IN_PTR(wgt) given = WGT_AT(weight, panel * kh * kw * ic * WIDE);
      for (int start = 0; start < ic; start += DEPTH) {
        const int depth = MIN(DEPTH, ic - start), pairs = (depth + MAT_K - 1) / MAT_K * (MAT_K / 2);
#define COLUMNS(j, v) WEIGHT(given, (tap * ic + start + (j)) * WIDE + (v) * V, UNITS(tap * ic + start + (j), v))
#define UNITS(j, v) LOADSV(scales, (panel * SCALE_BLOCKS(kh * kw * ic) + (j) / SCALE_ROWS) * WIDE + (v) * V)
        for (int tap = 0; tap < kh * kw; tap++) {
          OUT_PTR(uint) to = right + tap * PIXEL * WIDE;
          for (int j = 0; j < depth / 2; j++)
            for (int v = 0; v < NV; v++)
              STORE_PAIRED(to, right_low, j * WIDE + v * V, COLUMNS(2 * j, v), COLUMNS(2 * j + 1, v))
          for (int j = depth / 2; j < pairs; j++)
            for (int v = 0; v < NV; v++) {
              vec last = SPLAT(0.0f);
              if (2 * j < depth) last = COLUMNS(2 * j, v);
              STORE_PAIRED(to, right_low, j * WIDE + v * V, last, SPLAT(0.0f))
            }
        }

        // What becomes pairs next comes nearer meanwhile, some of it for each step of a block.
        IN_PTR(wgt) next = WGT_AT(given, (start + DEPTH < ic ? start + DEPTH : kh * kw * ic) * WIDE);
        const int blocks = (count + BLOCK_M - 1) / BLOCK_M, pace = (2 * WIDE + blocks - 1) / blocks;
        for (int block = 0; block < count; block += BLOCK_M) {
          OUT_PTR(float) sum = sums + block * WIDE;
          if (start > 0) { BLOCK_LOAD(sum, WIDE) }
          else { BLOCK_ZERO }
          for (int tap = 0; tap < kh * kw; tap++) {
            const int dy = tap / kw, phase = tap % kw * phases + dy % stride;
            OUT_PTR(uint) pixels = left + (start / DEPTH * part + (phase * plane + dy / stride * cols + block) * PIXEL);
            OUT_PTR(uint) taps = right + tap * PIXEL * WIDE;
            IN_PTR(wgt) near = WGT_AT(next, tap * ic * WIDE + block / BLOCK_M * pace);
            for (int j = 0; j < pairs; j += MAT_K / 2) {
              PREFETCH(WGT_AT(near, j * 2 * WIDE));
              BLOCK_MULTIPLY(pixels + j, PIXEL, left_low, taps + j * WIDE, WIDE, right_low)
            }
          }
          BLOCK_STORE(sum, WIDE)
        }
      }

      for (int i = 0; i < count; i++)
        for (int v = 0; v < NV; v++) {
          const int col = panel * WIDE + v * V;
          const int out = ((item * oh + y0 + i / cols) * ow + x0 + i % cols) * oc + col;
          const int shift_at = shift_from + item * shift_row + col;
          if (col >= oc || x0 + i % cols >= ow) continue;
          vec z = LOADP(sums, i * WIDE + v * V);
          SCALE(z, col)
          ADD_BIAS(z, LOADV, col)
          if (col + V <= oc) {
            FINISH(z, LOADV, shift_at, out)
            STOREV(y, out, z);
            continue;
          }
#define FINISH_LANE(one, c) FINISH(one, LOAD, shift_at + c, out + c)
          STORE_LANES(z, out, oc - col, FINISH_LANE)
        }
    }
  }
  MAT_END
}
