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
          int at[36];
          WINOGRAD_PLACES(at, first + t, start)
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
#define KEEP(q, z, j) STOREP(taps, (q) * tap_plane + j, z);
#define TAP_SCALE(row, column) LOADSV(scales, (panel * SCALE_BLOCKS(9 * ic) + (row) / SCALE_ROWS) * WIDE + (column))
            for (int j = 0; j < part * WIDE; j += V) WINOGRAD_TAP_PAIR(KEEP, TAP, j, pair)
            // While these are multiplied the next ones come nearer, a quarter of a tap for each product.
            IN_PTR(wgt) next = given;
            if (panel + 1 < MIN(some + share, to_panel)) next = WGT_AT(next, 9 * ic * WIDE);
            else if (start + depth < ic) next = WGT_AT(next, (depth - (panel - some) * 9 * ic) * WIDE);
            next = WGT_AT(next, 3 * pair * ic * WIDE);
#define NEXT(q, j) PREFETCH(WGT_AT(next, (q) / 4 * ic * WIDE + ((q) % 4 * part + (j)) * (WIDE / 4)))
#define PRODUCT(q) WINOGRAD_PRODUCT(pair, q)
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
        for (int v = 0, c = some * WIDE; v < share * NV && c < MIN(to_panel * WIDE, oc); v++, c += V) {
          OUT_PTR(float) from = products + v / NV * 36 * product_plane + t * WIDE + v % NV * V;
#define SUM(i, j) LOADP(from, ((i) * 6 + (j)) * product_plane)
          WINOGRAD_STORE(first + t, c, SUM)
        }
      }
    }
  }
}
