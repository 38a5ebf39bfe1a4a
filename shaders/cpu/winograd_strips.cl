//: op    = "ConvNhwc"
//: class = "cpu"
//: caps  = []
//: method = "winograd"
//: why   = """F(4x4, 3x3) in one command (paper 3.3): a strip of tiles is transformed, multiplied and transformed back
//:         in scratch that stays in cache."""
//: in    = [
//:   "x: stg[n, h, w, ic]", "weight: wgt[panels, taps, ic, wide]", "bias: stg[panels, wide]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[panels, wide]", "given: f32[groups, slot]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]", "scratch: f32[groups, slot]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "oh: int", "ow: int", "tiles_h: int", "tiles_w: int",
//:   "begun: int", "tiles: int", "strip: int", "block: int", "panels: int", "chunk: int", "groups: int", "slot: int",
//:   "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["groups", "1", "1"]
//: group = ["1", "1", "1"]
//: tune.V = [16, 4, 8]
//: tune.NV = [2, 1, 4]
//: tune.MR = [8, 4, 6, 12]
//: tune.STRIP = [8, 16, 32, 64]
//: tune.DEPTH = [32, 16, 64, 128]
//: needs = {kh = {min = 3, max = 3}, kw = {min = 3, max = 3}, stride = {max = 1}, ic = {min = "V"}}
//: inplace = {residual = ""}
//: with  = {F16 = {NV = 4, MR = 6}, FLY = {NV = 2, MR = 8, STRIP = 64, DEPTH = 64}}
//: layout = {tune = ["V", "NV"], by = ["ic", "oc", "FLY"], gives = ["panels", "groups", "slot"]}
//: reach.weight = "panels * (36 - 27 * FLY) * ic * V * NV // (1 + W4)"
//: reach.bias = "HAS_BIAS * panels * V * NV"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "(W8 + W4 * ceil_div(9 * ic, 32)) * panels * V * NV"
//: reach.given = "GIVEN * ceil_div(tiles, strip) * ceil_div(ic, block) * 36 * (strip * block + V)"
//: holds = [
//:   "tiles + strip < 2147483648", "panels + chunk < 2147483648", "4 * (begun + tiles) < 2147483648",
//:   "begun + tiles <= n * tiles_h * tiles_w", "strip % MR == 0", "1 <= chunk", "V <= block",
//:   "V <= ic - (ceil_div(ic, block) - 1) * block", "GIVEN <= FLY", "(1 - RAGGED) * (oc % V) == 0",
//:   """(1 - GIVEN) * ceil_div(ic, block) * 36 * (strip * (block + V - FLY * V) + V) + \
//:    36 * (strip * V * NV + V) + FLY * 36 * (block * V * NV + V) <= slot""",
//:   "ceil_div(tiles, strip) * ceil_div(panels, chunk) + groups < 2147483648", "up_h * h < 2147483648", "1 <= up_h",
//:   "up_w * w < 2147483648", "1 <= up_w", "W8 + W4 <= 1", "W4 <= FLY",
//: ]

// STRIP and DEPTH bound the sizes that lowering gives as arguments: tiles, and channels in that are multiplied at a
// time. A task is a strip of tiles by a chunk of panels; work-item g has tasks g, g + groups, ... and one slot of
// scratch. Patches are of all channels, in blocks of those that are multiplied together: a work-item's own, or GIVEN:
// made before by winograd_blocks, for all work-items. FLY: the weights are plain taps, transformed a block at a time,
// which stays near; it reads a quarter of the bytes. Without, they are stored transformed, which pays in half, where
// many strips read them.
#ifndef GIVEN
#define GIVEN 0
#endif
#ifndef FLY
#define FLY 1
#endif
#ifndef RAGGED  // the last vector of y is not full: see conv2d_nhwc
#define RAGGED 1
#endif
#define WIDE (V * NV)

#if HAS_ADD
#define NEAR(at) { PREFETCH(y + (at)); PREFETCH(OVERWRITTEN(residual, y) + (at)); }
#else
#define NEAR(at) PREFETCH(y + (at));
#endif

KERNEL(winograd_strips)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual),
                        IN(scl, scales), IN(float, given), OUT(stg, y), OUT(float, scratch), ARG(int, n), ARG(int, ic),
                        ARG(int, h), ARG(int, w), ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, tiles_h),
                        ARG(int, tiles_w), ARG(int, begun), ARG(int, tiles), ARG(int, strip), ARG(int, block),
                        ARG(int, panels), ARG(int, chunk), ARG(int, groups), ARG(int, slot), ARG(int, pad_top),
                        ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from),
                        ARG(int, shift_row) GRID) {
  if (GID(0) >= groups) return;
  // A vector between planes, and lines of all channels: a power of two apart they would share few sets of a cache.
  const int row = block + (FLY ? 0 : V), patch_plane = strip * row + V, product_plane = strip * WIDE + V;
  const int tap_plane = block * WIDE + V, blocks = (ic + block - 1) / block;
  const int chunks = (panels + chunk - 1) / chunk, strips = (tiles + strip - 1) / strip;
  OUT_PTR(float) products = scratch + GID(0) * slot;
  OUT_PTR(float) taps = products + 36 * product_plane;
  OUT_PTR(float) own = taps + FLY * 36 * tap_plane;

  for (int task = GID(0); task < strips * chunks; task += groups) {
    const int first = task / chunks * strip, count = MIN(strip, tiles - first);
    const int from_panel = task % chunks * chunk, to_panel = MIN(from_panel + chunk, panels);
#if GIVEN
    IN_PTR(float) patches = given + task / chunks * blocks * 36 * patch_plane;
#else
    OUT_PTR(float) patches = own;
    for (int t = 0; t < count; t++) WINOGRAD_PATCHES(own + t * row, row, patch_plane, begun + first + t)
#endif

    for (int panel = from_panel; panel < to_panel; panel++) {
      for (int channel = 0; channel < ic; channel += block) {
        const int part = MIN(block, ic - channel);
#if FLY
        IN_PTR(wgt) plain = WGT_AT(weight, (panel * 9 * ic + channel) * WIDE);
#define TAP(t, j) WINOGRAD_TAP(plain, channel, t, j)
        for (int j = 0; j < part * WIDE; j += V) {  // G g G^T
          vec columns[18], z[6];
          UNROLL
          for (int b = 0; b < 3; b++) {
            const vec taps_of[3] = {TAP(b, j), TAP(3 + b, j), TAP(6 + b, j)};
            WINOGRAD_TAPS((columns + 6 * b), taps_of)
          }
          UNROLL
          for (int i = 0; i < 6; i++) {
            const vec line[3] = {columns[i], columns[6 + i], columns[12 + i]};
            WINOGRAD_TAPS(z, line)
            UNROLL
            for (int b = 0; b < 6; b++) STOREP(taps, (i * 6 + b) * tap_plane + j, z[b]);
          }
        }
        IN_PTR(wgt) next = plain;
        if (channel + part < ic) next = WGT_AT(next, block * WIDE);
        else if (panel + 1 < to_panel) next = WGT_AT(next, (9 * ic - channel) * WIDE);
        const int every = (WIDE / 4 * MR + count - 1) / count;
#define RIGHT(q, j) LOADP(taps, (q) * tap_plane + (j))
#else
        IN_PTR(wgt) right = weight + (panel * 36 * ic + channel) * WIDE;
#define RIGHT(q, j) LOADWV(right, (q) * ic * WIDE + (j))
#endif
        for (int q = 0; q < 36; q++)
          for (int top = 0; top < count; top += MR) {
            if (channel + part == ic && q < 4 * MR) {  // where pixels go, and what is added to them, comes nearer
              const int tile = begun + first + MIN(top + q / 4, count - 1), ox = tile % tiles_w * 4;
              const int oy = tile / tiles_w % tiles_h * 4 + q % 4, item = tile / (tiles_h * tiles_w);
              for (int k = ox; k < (oy < oh ? MIN(ox + 4, ow) : 0); k++)
                for (int v = 0; v < WIDE; v += CACHE_LINE) NEAR(((item * oh + oy) * ow + k) * oc + panel * WIDE + v)
            }
            OUT_PTR(float) sums = products + q * product_plane + top * WIDE;
            IN_PTR(float) left = patches + (channel / block * 36 + q) * patch_plane + top * row;
            vec sum[MR][NV];
            UNROLL
            for (int i = 0; i < MR; i++)
              UNROLL
              for (int v = 0; v < NV; v++) sum[i][v] = SPLAT(0.0f);
            if (channel > 0)
              UNROLL
              for (int i = 0; i < MR; i++)
                UNROLL
                for (int v = 0; v < NV; v++) sum[i][v] = LOADP(sums, i * WIDE + v * V);
#if FLY  // while these are multiplied the next taps come nearer, a quarter of one for each product
            IN_PTR(wgt) soon = WGT_AT(next, q / 4 * ic * WIDE + q % 4 * part * (WIDE / 4) + top / MR * part * every);
#endif
            for (int j = 0; j < part; j++) {
#if FLY
              PREFETCH(soon + j * every);
#if MR > 4  // the next product's patches, too, where a strip's are too many to stay near
              PREFETCH(left + patch_plane + j * MR);
#endif
#else
              UNROLL
              for (int v = 0; v < (top == 0 ? WIDE : 0); v += CACHE_LINE) PREFETCH(right + ((q + 1) * ic + j) * WIDE + v);
#endif
              vec values[NV];
              UNROLL
              for (int v = 0; v < NV; v++) values[v] = RIGHT(q, j * WIDE + v * V);
              UNROLL
              for (int i = 0; i < MR; i++)  // rows past the last tile are not stored
                UNROLL
                for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(left[i * row + j]), values[v], sum[i][v]);
            }
            UNROLL
            for (int i = 0; i < MR; i++)
              UNROLL
              for (int v = 0; v < NV; v++) STOREP(sums, i * WIDE + v * V, sum[i][v]);
          }
      }
      WINOGRAD_STORE_STRIP(products, product_plane, begun + first, count, panel, panel + 1)  // A^T m A
    }
  }
}
