//: op    = "ConvNhwc"
//: class = "cpu"
//: caps  = []
//: method = "winograd"
//: why   = """F(4x4, 3x3) in one command (paper 3.3): a strip of tiles is transformed, multiplied and transformed back
//:         in scratch that stays in cache."""
//: in    = [
//:   "x: stg[n, h, w, ic]", "weight: wgt[panels, taps, ic, wide]", "bias: stg[panels, wide]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[panels, wide]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]", "scratch: f32[groups, slot]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "oh: int", "ow: int", "tiles_h: int", "tiles_w: int",
//:   "tiles: int", "strip: int", "depth: int", "panels: int", "share: int", "chunk: int", "groups: int", "slot: int",
//:   "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["groups", "1", "1"]
//: group = ["1", "1", "1"]
//: tune.V = [16, 4, 8]
//: tune.NV = [2, 1, 4]
//: tune.MR = [8, 4, 6, 12]
//: tune.STRIP = [8, 16, 32, 64]
//: tune.DEPTH = [32, 16, 64, 128]
//: tune.SHARE = [320, 160, 640]
//: needs = {kh = {min = 3, max = 3}, kw = {min = 3, max = 3}, stride = {max = 1}, ic = {min = "V"}}
//: inplace = {residual = ""}
//: with  = {F16 = {NV = 4, MR = 6}, FLY = {NV = 4, MR = 4, STRIP = 64, DEPTH = 64}}
//: layout = {tune = ["V", "NV"], by = ["ic", "oc", "FLY"], gives = ["panels", "groups", "slot"]}
//: reach.weight = "panels * (36 - 27 * FLY) * ic * V * NV // (1 + W4)"
//: reach.bias = "HAS_BIAS * panels * V * NV"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "(W8 + W4 * ceil_div(9 * ic, 32)) * panels * V * NV"
//: holds = [
//:   "tiles + strip < 2147483648", "panels + chunk < 2147483648", "4 * tiles < 2147483648",
//:   "tiles == n * tiles_h * tiles_w", "strip % MR == 0", "1 <= share", "1 <= chunk", "V <= depth",
//:   "V <= ic - (ceil_div(ic, depth) - 1) * depth", "(1 - RAGGED) * (oc % V) == 0",
//:   "36 * (strip * (depth + V) + V) + 36 * share * (strip * V * NV + V) + FLY * 12 * (depth * V * NV + V) <= slot",
//:   "1 <= up_h", "1 <= up_w", "ceil_div(tiles, strip) * ceil_div(panels, chunk) + groups < 2147483648",
//:   "up_h * h < 2147483648", "up_w * w < 2147483648", "W8 + W4 <= 1", "W4 <= FLY",
//: ]

// STRIP, DEPTH and SHARE bound the sizes that lowering gives as arguments: tiles, channels in, and channels out at a
// time. A task is a strip of tiles by a chunk of panels; work-item g has tasks g, g + groups, ... and one slot of
// scratch. FLY: the weights are plain taps, transformed `depth` channels and 12 of 36 products at a time, which stay in
// the nearest caches; it reads a quarter of the bytes. Without, they are stored transformed, which pays where many
// strips read them.
#ifndef FLY
#define FLY 1
#endif
#ifndef RAGGED  // the last vector of y is not full: see conv2d_nhwc
#define RAGGED 1
#endif
#define WIDE (V * NV)

KERNEL(winograd_strips)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual),
                        IN(scl, scales), OUT(stg, y), OUT(float, scratch), ARG(int, n), ARG(int, ic), ARG(int, h),
                        ARG(int, w), ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, tiles_h), ARG(int, tiles_w),
                        ARG(int, tiles), ARG(int, strip), ARG(int, depth), ARG(int, panels), ARG(int, share),
                        ARG(int, chunk), ARG(int, groups), ARG(int, slot), ARG(int, pad_top), ARG(int, pad_left),
                        ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from), ARG(int, shift_row) GRID) {
  if (GID(0) >= groups) return;
  // A vector between lines and between planes: a power of two apart they would share few sets of a cache.
  const int row = depth + V, patch_plane = strip * row + V, product_plane = strip * WIDE + V,
        tap_plane = depth * WIDE + V;
  const int chunks = (panels + chunk - 1) / chunk, strips = (tiles + strip - 1) / strip;
  OUT_PTR(float) patches = scratch + GID(0) * slot;
  OUT_PTR(float) products = patches + 36 * patch_plane;
  OUT_PTR(float) taps = products + 36 * share * product_plane;

  for (int task = GID(0); task < strips * chunks; task += groups) {
    const int first = task / chunks * strip, count = MIN(strip, tiles - first);
    const int from_panel = task % chunks * chunk, to_panel = MIN(from_panel + chunk, panels);
    for (int some = from_panel; some < to_panel; some += share) {
      for (int start = 0; start < ic; start += depth) {
        const int part = MIN(depth, ic - start);

        // Patches: B^T d B. If all channels fit, those of the first panels serve the others.
        for (int t = 0; t < (some == from_panel || depth < ic ? count : 0); t++) {
          const int tile = first + t, item = tile / (tiles_h * tiles_w);
          const int top = tile / tiles_w % tiles_h * 4 - pad_top, left = tile % tiles_w * 4 - pad_left;
          // up_h by up_w is the picture once repeated to its larger size, h by w as it is stored; -1 is padding
          int rows[6], columns[6], at[36];
          for (int i = 0; i < 6; i++) {
            const int iy = top + i, ix = left + i;
            rows[i] = iy < 0 || iy >= up_h ? -1 : (item * h + iy * h / up_h) * w;
            columns[i] = ix < 0 || ix >= up_w ? -1 : ix * w / up_w;
          }
          for (int i = 0; i < 36; i++)
            at[i] = MIN(rows[i / 6], columns[i % 6]) < 0 ? -1 : (rows[i / 6] + columns[i % 6]) * ic + start;
          for (int step = 0; step < part; step += V) {
            // the last vector ends at the last channel: some are done twice, to the same values
            const int c = MIN(step, part - V);
            vec half_way[36];
#define PIXEL(i, j) (at[(i) * 6 + (j)] < 0 ? SPLAT(0.0f) : LOADV(x, at[(i) * 6 + (j)] + c))
            WINOGRAD_PATCH_COLUMNS(half_way, PIXEL)
            for (int i = 0; i < 6; i++) {
              vec z[6];
              WINOGRAD_PATCH(z, (half_way + i * 6), 1)
              UNROLL
              for (int j = 0; j < 6; j++) STOREP(patches, (i * 6 + j) * patch_plane + t * row + c, z[j]);
            }
          }
        }

        for (int panel = some; panel < MIN(some + share, to_panel); panel++) {
          for (int pair = 0; pair < (FLY ? 3 : 1); pair++) {
#if FLY  // two rows of products at a time
            IN_PTR(wgt) given = WGT_AT(weight, (panel * 9 * ic + start) * WIDE);
#define TAP(t, j) WEIGHT(given, (t) * ic * WIDE + (j), TAP_SCALE((t) * ic + start + (j) / WIDE, (j) % WIDE))
#define TAP_SCALE(row, column) LOADSV(scales, (panel * SCALE_BLOCKS(9 * ic) + (row) / SCALE_ROWS) * WIDE + (column))
            for (int j = 0; j < part * WIDE; j += V) WINOGRAD_TAP_PAIR(taps, tap_plane, TAP, j, pair)
            // While these are multiplied the next ones come nearer, a quarter of a tap for each product.
            IN_PTR(wgt) next = given;
            if (panel + 1 < MIN(some + share, to_panel)) next = WGT_AT(next, 9 * ic * WIDE);
            else if (start + depth < ic) next = WGT_AT(next, (depth - (panel - some) * 9 * ic) * WIDE);
            next = WGT_AT(next, 3 * pair * ic * WIDE);
#define NEXT(q, j) PREFETCH(WGT_AT(next, (q) / 4 * ic * WIDE + ((q) % 4 * part + (j)) * (WIDE / 4)))
            const int rows[2] = {pair > 0 ? 2 * pair - 1 : 0, pair > 0 ? 2 * pair : 5};
#define PRODUCT(q) (rows[(q) / 6] * 6 + (q) % 6)
#define RIGHT(q, j) LOADP(taps, (q) * tap_plane + (j))
#else
            IN_PTR(wgt) given = weight + (panel * 36 * ic + start) * WIDE;
#define NEXT(q, j)
#define PRODUCT(q) (q)
#define RIGHT(q, j) LOADWV(given, (q) * ic * WIDE + (j))
#endif
            for (int q = 0; q < (FLY ? 12 : 36); q++)
              for (int top = 0; top < count; top += MR) {
                OUT_PTR(float) sums = products + ((panel - some) * 36 + PRODUCT(q)) * product_plane + top * WIDE;
                vec sum[MR][NV];
                int from[MR];
                UNROLL
                for (int i = 0; i < MR; i++) {
                  // past the last tile it is repeated and not stored
                  from[i] = PRODUCT(q) * patch_plane + MIN(top + i, count - 1) * row;
                  UNROLL
                  for (int v = 0; v < NV; v++) sum[i][v] = start > 0 ? LOADP(sums, i * WIDE + v * V) : SPLAT(0.0f);
                }
                for (int j = 0; j < part; j++) {
                  if (top == 0) { NEXT(q, j); }
                  vec values[NV];
                  UNROLL
                  for (int v = 0; v < NV; v++) values[v] = RIGHT(q, j * WIDE + v * V);
                  UNROLL
                  for (int i = 0; i < MR; i++)
                    UNROLL
                    for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(patches[from[i] + j]), values[v], sum[i][v]);
                }
                UNROLL
                for (int i = 0; i < MR; i++)
                  UNROLL
                  for (int v = 0; v < NV; v++) STOREP(sums, i * WIDE + v * V, sum[i][v]);
              }
          }
        }
      }

      // Pixels: A^T m A, and what follows a convolution.
      for (int t = 0; t < count; t++) {
        const int tile = first + t, item = tile / (tiles_h * tiles_w), oy = tile / tiles_w % tiles_h * 4,
              ox = tile % tiles_w * 4;
        for (int v = 0, c = some * WIDE; v < share * NV && c < MIN(to_panel * WIDE, oc); v++, c += V) {
          OUT_PTR(float) from = products + v / NV * 36 * product_plane + t * WIDE + v % NV * V;
          vec half_way[24], base = SPLAT(0.0f);
#define SUM(i, j) LOADP(from, ((i) * 6 + (j)) * product_plane)
          WINOGRAD_PIXEL_COLUMNS(half_way, SUM)
#if W8
          const vec scale = LOADSV(scales, c);
#define SCALED(pixel) FMA(pixel, scale, base)
#else
#define SCALED(pixel) ((pixel) + base)
#endif
          const int shift_at = shift_from + item * shift_row + c;
          ADD_BIAS(base, LOADV, c)
#if !RAGGED
          ADD_SHIFT(base, LOADV, shift_at)
#endif
          for (int i = 0; i < MIN(4, oh - oy); i++) {
            vec z[4];
            WINOGRAD_PIXELS(z, (half_way + i * 6), 1)
            for (int j = 0; j < MIN(4, ow - ox); j++) {
              const int out = ((item * oh + oy + i) * ow + ox + j) * oc + c;
              vec pixel = SCALED(z[j]);
#if RAGGED
#define FINISH_LANE(one, k) FINISH(one, LOAD, shift_at + k, out + k)
              STORE_LANES(pixel, out, MIN(V, oc - c), FINISH_LANE)
#else
              pixel = ACTIVATE(pixel);
              ADD_RESIDUAL(pixel, LOADV, out)
              STOREV(y, out, pixel);
#endif
            }
          }
        }
      }
    }
  }
}
