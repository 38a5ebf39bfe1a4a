//: op    = "ConvNhwc"
//: class = "cpu"
//: caps  = []
//: why   = """Direct, of any size and stride: the pixels that a band reads are copied once, as floats among their
//:         padding, and every tap and channel out reads them there: no patch is gathered."""
//: in    = [
//:   "x: stg[n, h, w, ic]", "weight: wgt[panels, kh, kw, ic, wide]", "bias: stg[panels, wide]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[panels, wide]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]", "scratch: f32[groups, slot]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "oh: int", "ow: int", "kh: int", "kw: int", "stride: int",
//:   "bands_h: int", "bands_w: int", "band_h: int", "band_w: int", "depth: int", "panels: int", "chunk: int",
//:   "groups: int", "window: int", "widened: int", "slot: int", "pad_top: int", "pad_left: int", "up_h: int",
//:   "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["groups", "1", "1"]
//: group = ["1", "1", "1"]
//: tune.V = [16, 4, 8]
//: tune.NV = [4, 1, 2]
//: tune.MR = [6, 4, 8, 12]
//: tune.BAND = [256, 64, 128, 512]
//: tune.DEPTH = [128, 32, 64, 256]
//: needs = {ic = {min = "V"}}
//: inplace = {residual = ""}
//: layout = {tune = ["V", "NV"], by = ["kh", "kw", "ic", "oc"], gives = ["panels", "groups", "slot"]}
//: reach.weight = "panels * kh * kw * ic * V * NV // (1 + W4)"
//: reach.bias = "HAS_BIAS * panels * V * NV"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "(W8 + W4 * ceil_div(kh * kw * ic, 32)) * panels * V * NV"
//: holds = [
//:   "1 <= stride", "1 <= band_h", "1 <= band_w", "1 <= chunk", "V <= depth", "panels + chunk < 2147483648",
//:   "V <= ic - (ceil_div(ic, depth) - 1) * depth", "oc <= panels * V * NV", "(1 - RAGGED) * (oc % V) == 0",
//:   "bands_h == ceil_div(oh, band_h)", "bands_w == ceil_div(ow, band_w)", "W8 + W4 <= 1",
//:   "n * bands_h * bands_w * ceil_div(panels, chunk) + groups < 2147483648", "1 <= up_h", "1 <= up_w",
//:   "up_h * h < 2147483648", "min(1, max(up_w - w, w - up_w)) * up_w * w < 2147483648",
//:   "oh * stride + kh < 2147483648", "ow * stride + kw < 2147483648",
//:   "((band_h - 1) * stride + kh) * ((band_w - 1) * stride + kw) * (depth + V) <= window",
//:   "min(1, F16 + W8 + W4) * kh * kw * depth * V * NV <= widened",
//:   "window + widened + chunk * (band_h * band_w + MR) * V * NV <= slot",
//: ]

// BAND and DEPTH bound the sizes that lowering gives as arguments: pixels, and channels in, at a time. A task is a band
// of pixels by a chunk of panels of the weight; work-item g has tasks g, g + groups, ... and one slot of scratch.
#ifndef RAGGED  // the last vector of y is not full: see conv2d_nhwc
#define RAGGED 1
#endif
#define WIDE (V * NV)
#define WIDEN (F16 || W8 || W4)  // weights become floats once for all tiles of a band

KERNEL(conv2d_bands)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual), IN(scl, scales),
                     OUT(stg, y), OUT(float, scratch), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w),
                     ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw), ARG(int, stride),
                     ARG(int, bands_h), ARG(int, bands_w), ARG(int, band_h), ARG(int, band_w), ARG(int, depth),
                     ARG(int, panels), ARG(int, chunk), ARG(int, groups), ARG(int, window), ARG(int, widened),
                     ARG(int, slot), ARG(int, pad_top), ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w),
                     ARG(int, shift_from), ARG(int, shift_row) GRID) {
  if (GID(0) >= groups) return;
  const int taps = kh * kw, chunks = (panels + chunk - 1) / chunk, room = band_h * band_w + MR;
  // A vector between pixels: a power of two apart they would share few sets of a cache.
  const int row = depth + V, across_in = (band_w - 1) * stride + kw;
  OUT_PTR(float) pixels = scratch + GID(0) * slot;
  OUT_PTR(float) floats = pixels + window;
  OUT_PTR(float) kept = floats + widened;

  for (int task = GID(0); task < n * bands_h * bands_w * chunks; task += groups) {
    const int band = task / chunks, item = band / (bands_h * bands_w);
    const int top = band / bands_w % bands_h * band_h, left = band % bands_w * band_w;
    const int high = MIN(band_h, oh - top), across = MIN(band_w, ow - left), count = high * across;
    const int from_panel = task % chunks * chunk, to_panel = MIN(from_panel + chunk, panels);
    for (int start = 0; start < ic; start += depth) {
      const int part = MIN(depth, ic - start);

      for (int r = 0; r < (high - 1) * stride + kh; r++)
        for (int c = 0; c < (across - 1) * stride + kw; c++) {
          const int iy = top * stride - pad_top + r, ix = left * stride - pad_left + c, to = (r * across_in + c) * row;
          // up_h by up_w is the picture once repeated to its larger size, h by w as it is stored
          const int from = ((item * h + NEAREST(iy, h, up_h)) * w + NEAREST(ix, w, up_w)) * ic + start;
          const int outside = iy < 0 || iy >= up_h || ix < 0 || ix >= up_w;
          for (int step = 0; step < part; step += V) {
            // the last vector ends at the last channel: some are copied twice
            const int j = MIN(step, part - V);
            // no CPU foresees where the next pixels are, which lie apart here and there
            PREFETCH_NEAR(x + (from + j + 4 * ic));
            PREFETCH_NEAR(pixels + (to + j + 4 * row));
            STOREP(pixels, to + j, outside ? SPLAT(0.0f) : LOADV(x, from + j));
          }
        }

      for (int panel = from_panel; panel < to_panel; panel++) {
        IN_PTR(wgt) given = WGT_AT(weight, (panel * taps * ic + start) * WIDE);
#if WIDEN
#define SCALE_OF(row, column) \
  LOADSV(scales, (panel * SCALE_BLOCKS(taps * ic) + (row) / SCALE_ROWS) * WIDE + (column))
        for (int tap = 0; tap < taps; tap++)
          for (int j = 0; j < part * WIDE; j += V)
            STOREP(floats, tap * part * WIDE + j,
                   WEIGHT(given, tap * ic * WIDE + j, SCALE_OF(tap * ic + start + j / WIDE, j % WIDE)));
#define RIGHT(tap, j) LOADP(floats, (tap) * part * WIDE + (j))
#else
#define RIGHT(tap, j) LOADWV(given, (tap) * ic * WIDE + (j))
#endif
        // The next panel, or the next channels' first one, comes nearer while tiles are multiplied, some of it for each
        // row of the weight.
        IN_PTR(wgt) next = given;
        if (panel + 1 < to_panel) next = WGT_AT(given, taps * ic * WIDE);
        else if (start + depth < ic) next = WGT_AT(weight, (from_panel * taps * ic + start + depth) * WIDE);
        const int tiles = (count + MR - 1) / MR, pace = (WIDE + tiles - 1) / tiles;
        for (int tile = 0; tile < count; tile += MR) {
          OUT_PTR(float) sums = kept + ((panel - from_panel) * room + tile) * WIDE;
          vec sum[MR][NV];
          int from[MR];
          UNROLL
          for (int i = 0; i < MR; i++) {
            const int pixel = MIN(tile + i, count - 1);  // past the last one it is repeated and not stored
            from[i] = (pixel / across * across_in + pixel % across) * stride * row;
            UNROLL
            for (int v = 0; v < NV; v++) sum[i][v] = start > 0 ? LOADP(sums, i * WIDE + v * V) : SPLAT(0.0f);
          }

          for (int tap = 0; tap < taps; tap++) {
            const int step = (tap / kw * across_in + tap % kw) * row;
            IN_PTR(wgt) near = WGT_AT(next, tap * ic * WIDE + tile / MR * pace);
            for (int j = 0; j < part; j++) {
              PREFETCH(WGT_AT(near, j * WIDE));
              vec values[NV];
              UNROLL
              for (int v = 0; v < NV; v++) values[v] = RIGHT(tap, j * WIDE + v * V);
              UNROLL
              for (int i = 0; i < MR; i++)
                UNROLL
                for (int v = 0; v < NV; v++)
                  sum[i][v] = FMA(SPLAT(pixels[from[i] + step + j]), values[v], sum[i][v]);
            }
          }

          UNROLL
          for (int i = 0; i < MR; i++)
            UNROLL
            for (int v = 0; v < NV; v++) STOREP(sums, i * WIDE + v * V, sum[i][v]);
        }

        for (int p = 0; p < (start + depth < ic ? 0 : count); p++) {
          const int pixel = (item * oh + top + p / across) * ow + left + p % across;
          for (int c = panel * WIDE; c < MIN((panel + 1) * WIDE, oc); c += V) {
            const int out = pixel * oc + c, shift_at = shift_from + item * shift_row + c;
            vec z = LOADP(kept, ((panel - from_panel) * room + p) * WIDE + c - panel * WIDE);
            SCALE(z, c)
            ADD_BIAS(z, LOADV, c)
#if RAGGED
#define FINISH_LANE(one, k) FINISH(one, LOAD, shift_at + k, out + k)
            STORE_LANES(z, out, MIN(V, oc - c), FINISH_LANE)
#else
            FINISH(z, LOADV, shift_at, out)
            STOREV(y, out, z);
#endif
          }
        }
      }
    }
  }
}
