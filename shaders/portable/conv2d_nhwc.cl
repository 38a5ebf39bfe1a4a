//: op    = "ConvNhwc"
//: class = "portable"
//: caps  = []
//: why   = """A matrix product whose rows are patches: MR pixels by NV vectors of channels; MB tiles share a block of
//:         KC (tap, channel) pairs. Any size, any stride."""
//: in    = [
//:   "x: stg[n, h, w, ic]", "weight: wgt[kh, kw, ic, ldb]", "bias: stg[ldb]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "ldb: int", "oh: int", "ow: int", "kh: int", "kw: int",
//:   "stride: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["ceil_div(oc, V * NV)", "ceil_div(oh * ow, MR * MB)", "n"]
//: group = ["X", "Y", "1"]
//: tune.V = [16, 4, 8]
//: tune.NV = [4, 1, 2]
//: tune.MR = [6, 4, 8]
//: tune.MB = [16, 1, 2, 4, 8]
//: tune.KC = [128, 64, 256]
//: tune.X = [1, 8, 16]
//: tune.Y = [1, 4, 8]
//: needs = {}
//: layout = {tune = ["V", "NV"], by = ["kh", "kw", "ic", "oc"], gives = ["ldb"]}
//: inplace = {residual = "oc"}
//: reach.weight = "kh * kw * ic * ldb // (1 + W4)"
//: reach.bias = "HAS_BIAS * ldb"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "W8 * ldb + W4 * ceil_div(kh * kw * ic, 32) * ldb"
//: holds = [
//:   "V <= ldb", "oc <= ldb", "PANELS * ceil_div(oc, V * NV) * V * NV <= ldb", "(1 - RAGGED) * (ic % V) == 0",
//:   "W8 + W4 <= PANELS", "1 <= up_h", "1 <= up_w", "up_h * h < 2147483648",
//:   "min(1, max(up_w - w, w - up_w)) * up_w * w < 2147483648",
//:   "oh * stride + kh < 2147483648", "ow * stride + kw < 2147483648",
//: ]

// With PANELS, the weight is stored as work-items read it: the channels of one beside each other, all taps one after
// another, zeros past the last. Without, rows of oc channels, padded to one vector where there are fewer.
#ifndef PANELS
#define PANELS 0
#endif
#if (W8 || W4) && !PANELS
#error "weights of few bits are stored in panels"
#endif
#if PANELS
#define STEP (V * NV)
#else
#define STEP ldb
#endif

// Input channels that do not fill vectors are read one by one. As a build of its own: beside a scalar loop, even one
// that never runs, CPU compilers make the vector loads of half four times slower.
#ifndef RAGGED
#define RAGGED 1
#endif

KERNEL(conv2d_nhwc)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual), IN(scl, scales),
                    OUT(stg, y), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w), ARG(int, oc), ARG(int, ldb),
                    ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw), ARG(int, stride), ARG(int, pad_top),
                    ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from),
                    ARG(int, shift_row) GRID) {
  const int pixels = oh * ow, col = GID(0) * V * NV, first = GID(1) * MR * MB, item = GID(2);
  if (col >= oc || first >= pixels || item >= n) return;
  const int k = kh * kw * ic;
  IN_PTR(wgt) taps = WGT_AT(weight, PANELS ? GID(0) * k * STEP : 0);

  // Channels of y, and of the weight. In rows a vector that would pass the last channel moves back to end there, and
  // computes some a second time, to the same values; in panels it finds zeros there, which are not stored.
  int at[NV], out_at[NV];
  UNROLL
  for (int v = 0; v < NV; v++) {
    out_at[v] = PANELS ? col + v * V : MIN(col + v * V, ldb - V);
    at[v] = PANELS ? v * V : out_at[v];
  }

  // MB tiles of MR pixels take turns with each block of the weight, which stays in cache for them.
  vec sums[MB][MR][NV];
  for (int start = 0; start < k; start += KC) {
    const int depth = MIN(KC, k - start);
    for (int tile = 0; tile < MB && first + tile * MR < pixels; tile++) {
      const int top = first + tile * MR;
      float rows[MR * KC];
      UNROLL
      for (int i = 0; i < MR; i++) {
        const int pixel = MIN(top + i, pixels - 1);  // pixels past the end repeat the last one and are not stored
        const int oy = pixel / ow * stride - pad_top, ox = pixel % ow * stride - pad_left;
        for (int j = 0, run; j < depth; j += run) {  // a run of channels under one tap
          const int tap = (start + j) / ic, c = (start + j) % ic, to = i * KC + j;
          const int iy = oy + tap / kw, ix = ox + tap % kw;
          // up_h by up_w is the picture once repeated to its larger size (nearest neighbour); h by w as it is stored.
          const int from = ((item * h + NEAREST(iy, h, up_h)) * w + NEAREST(ix, w, up_w)) * ic + c;
          const int outside = iy < 0 || iy >= up_h || ix < 0 || ix >= up_w;
          run = MIN(ic - c, depth - j);
#if RAGGED
          for (int r = 0; r < run; r++) rows[to + r] = outside ? 0.0f : LOAD(x, from + r);
#else
          for (int r = 0; r < run; r += V) STOREP(rows, to + r, outside ? SPLAT(0.0f) : LOADV(x, from + r));
#endif
        }
      }
      vec sum[MR][NV];
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int v = 0; v < NV; v++) sum[i][v] = start > 0 ? sums[tile][i][v] : SPLAT(0.0f);
      HOLD_SCALES(scale, NV)
      for (int j = 0; j < depth; j++) {
        NEXT_SCALES(scale, NV, scales + GID(0) * SCALE_BLOCKS(k) * STEP, start + j, STEP, at)
        vec values[NV];
        UNROLL
        for (int v = 0; v < NV; v++) values[v] = WEIGHT(taps, (start + j) * STEP + at[v], scale[v]);
        UNROLL
        for (int i = 0; i < MR; i++)
          UNROLL
          for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(rows[i * KC + j]), values[v], sum[i][v]);
      }
      UNROLL
      for (int i = 0; i < MR; i++)
        UNROLL
        for (int v = 0; v < NV; v++) sums[tile][i][v] = sum[i][v];
    }
  }

  for (int tile = 0; tile < MB && first + tile * MR < pixels; tile++) {
    const int top = first + tile * MR;
    UNROLL
    for (int i = 0; i < MR; i++) {
      if (top + i >= pixels) continue;
      UNROLL
      for (int v = 0; v < NV; v++) {
        const int out = (item * pixels + top + i) * oc + out_at[v],
              shift_at = shift_from + item * shift_row + out_at[v];
        vec z = sums[tile][i][v];
        SCALE(z, col + at[v])
        ADD_BIAS(z, LOADV, (PANELS ? col : 0) + at[v])
        if (out_at[v] + V <= oc) {
          FINISH(z, LOADV, shift_at, out)
          STOREV(y, out, z);
          continue;
        }
#define FINISH_LANE(one, c) FINISH(one, LOAD, shift_at + c, out + c)
        STORE_LANES(z, out, oc - out_at[v], FINISH_LANE)
      }
    }
  }
}
