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
//:   "tiles: int", "strip: int", "depth: int", "block: int", "panels: int", "share: int", "chunk: int",
//:   "groups: int", "slot: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int",
//:   "shift_row: int",
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
//: with  = {F16 = {NV = 4, MR = 6}, FLY = {NV = 2, MR = 8, STRIP = 64, DEPTH = 64}}
//: layout = {tune = ["V", "NV"], by = ["ic", "oc", "FLY"], gives = ["panels", "groups", "slot"]}
//: reach.weight = "panels * (36 - 27 * FLY) * ic * V * NV // (1 + W4)"
//: reach.bias = "HAS_BIAS * panels * V * NV"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "(W8 + W4 * ceil_div(9 * ic, 32)) * panels * V * NV"
//: holds = [
//:   "tiles + strip < 2147483648", "panels + chunk < 2147483648", "4 * tiles < 2147483648",
//:   "tiles == n * tiles_h * tiles_w", "strip % MR == 0", "1 <= share", "1 <= chunk", "V <= block",
//:   "V <= ic - (ceil_div(ic, block) - 1) * block", "max(0, ic - depth) * (depth % block) == 0",
//:   "(1 - RAGGED) * (oc % V) == 0",
//:   """ceil_div(min(depth, ic), block) * 36 * (strip * (block + V - FLY * V) + V) + \
//:    36 * share * (strip * V * NV + V) + FLY * 36 * (block * V * NV + V) <= slot""",
//:   "ceil_div(tiles, strip) * ceil_div(panels, chunk) + groups < 2147483648", "up_h * h < 2147483648", "1 <= up_h",
//:   "up_w * w < 2147483648", "1 <= up_w", "W8 + W4 <= 1", "W4 <= FLY",
//: ]

// STRIP, DEPTH and SHARE bound the sizes that lowering gives as arguments: tiles, channels in that are multiplied, and
// channels out at a time. A task is a strip of tiles by a chunk of panels; work-item g has tasks g, g + groups, ... and
// one slot of scratch. Patches of `depth` channels are made at once, in blocks of those that are multiplied together.
// FLY: the weights are plain taps, transformed a block at a time, which stays near; it reads a quarter of the bytes.
// Without, they are stored transformed, which pays in half, where many strips read them.
#ifndef FLY
#define FLY 1
#endif
#ifndef RAGGED  // the last vector of y is not full: see conv2d_nhwc
#define RAGGED 1
#endif
#define WIDE (V * NV)
#define LINE (F16 ? 32 : 16)  // values of a cache's line

#if HAS_ADD
#define NEAR(at) { PREFETCH(y + (at)); PREFETCH(OVERWRITTEN(residual, y) + (at)); }
#else
#define NEAR(at) PREFETCH(y + (at));
#endif

KERNEL(winograd_strips)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual),
                        IN(scl, scales), OUT(stg, y), OUT(float, scratch), ARG(int, n), ARG(int, ic),
                        ARG(int, h), ARG(int, w), ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, tiles_h),
                        ARG(int, tiles_w), ARG(int, tiles), ARG(int, strip), ARG(int, depth),
                        ARG(int, block), ARG(int, panels), ARG(int, share), ARG(int, chunk), ARG(int, groups),
                        ARG(int, slot), ARG(int, pad_top), ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w),
                        ARG(int, shift_from), ARG(int, shift_row) GRID) {
  if (GID(0) >= groups) return;
  // A vector between planes, and lines of all channels: a power of two apart they would share few sets of a cache.
  const int row = block + (FLY ? 0 : V), patch_plane = strip * row + V, product_plane = strip * WIDE + V;
  const int tap_plane = block * WIDE + V, blocks = (MIN(depth, ic) + block - 1) / block;
  const int chunks = (panels + chunk - 1) / chunk, strips = (tiles + strip - 1) / strip;
  OUT_PTR(float) patches = scratch + GID(0) * slot;
  OUT_PTR(float) products = patches + blocks * 36 * patch_plane;
  OUT_PTR(float) taps = products + 36 * share * product_plane;

  for (int task = GID(0); task < strips * chunks; task += groups) {
    const int first = task / chunks * strip, count = MIN(strip, tiles - first);
    const int from_panel = task % chunks * chunk, to_panel = MIN(from_panel + chunk, panels);
    for (int some = from_panel; some < to_panel; some += share) {
      for (int start = 0; start < ic; start += depth) {
        const int stage = MIN(depth, ic - start);

        // Patches: B^T d B. If all channels fit, those of the first panels serve the others.
        for (int t = 0; t < (some == from_panel || depth < ic ? count : 0); t++) {
          int at[36];
          WINOGRAD_PLACES(at, first + t, start)
          for (int step = 0; step < stage; step += V) {
            // the last vector ends at the last channel: some are done twice, to the same values
            const int c = MIN(step, stage - V);
            OUT_PTR(float) to = patches + c / block * 36 * patch_plane + t * row + c % block;
            vec half_way[36];
#define PIXEL(i, j) (at[(i) * 6 + (j)] < 0 ? SPLAT(0.0f) : LOADV(x, at[(i) * 6 + (j)] + c))
            WINOGRAD_PATCH_COLUMNS(half_way, PIXEL)
            for (int i = 0; i < 6; i++) {
              vec z[6];
              WINOGRAD_PATCH(z, (half_way + i * 6), 1)
              UNROLL
              for (int j = 0; j < 6; j++) STOREP(to, (i * 6 + j) * patch_plane, z[j]);
            }
          }
        }

        for (int panel = some; panel < MIN(some + share, to_panel); panel++)
          for (int begin = 0; begin < stage; begin += block) {
            const int part = MIN(block, stage - begin), channel = start + begin;
            OUT_PTR(float) left = patches + begin / block * 36 * patch_plane;
#if FLY
            IN_PTR(wgt) plain = WGT_AT(weight, (panel * 9 * ic + channel) * WIDE);
#define TAP(t, j) WEIGHT(plain, (t) * ic * WIDE + (j), TAP_SCALE((t) * ic + channel + (j) / WIDE, (j) % WIDE))
#define TAP_SCALE(row, column) LOADSV(scales, (panel * SCALE_BLOCKS(9 * ic) + (row) / SCALE_ROWS) * WIDE + (column))
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
            if (begin + block < stage) next = WGT_AT(next, block * WIDE);
            else if (panel + 1 < MIN(some + share, to_panel)) next = WGT_AT(next, (9 * ic - begin) * WIDE);
#define RIGHT(q, j) LOADP(taps, (q) * tap_plane + (j))
#else
            IN_PTR(wgt) right = weight + (panel * 36 * ic + channel) * WIDE;
#define RIGHT(q, j) LOADWV(right, (q) * ic * WIDE + (j))
#endif
            for (int q = 0; q < 36; q++)
              for (int top = 0; top < count; top += MR) {
#if FLY  // while these are multiplied the next taps come nearer, a quarter of one for each product
                for (int k = top / MR * LINE; k < part * WIDE / 4; k += (count + MR - 1) / MR * LINE)
                  PREFETCH(WGT_AT(next, q / 4 * ic * WIDE + q % 4 * part * (WIDE / 4) + k));
#endif
                if (channel + part == ic && q < 4 * MR) {  // and where pixels go, and what is added to them: four each
                  const int tile = first + MIN(top + q / 4, count - 1), ox = tile % tiles_w * 4;
                  const int oy = tile / tiles_w % tiles_h * 4 + q % 4, item = tile / (tiles_h * tiles_w);
                  for (int k = ox; k < (oy < oh ? MIN(ox + 4, ow) : 0); k++)
                    for (int v = 0; v < WIDE; v += LINE) NEAR(((item * oh + oy) * ow + k) * oc + panel * WIDE + v)
                }
                OUT_PTR(float) sums = products + ((panel - some) * 36 + q) * product_plane + top * WIDE;
                vec sum[MR][NV];
                int from[MR];
                UNROLL
                for (int i = 0; i < MR; i++) {  // past the last tile it is repeated and not stored
                  from[i] = q * patch_plane + MIN(top + i, count - 1) * row;
                  UNROLL
                  for (int v = 0; v < NV; v++) sum[i][v] = channel > 0 ? LOADP(sums, i * WIDE + v * V) : SPLAT(0.0f);
                }
                for (int j = 0; j < part; j++) {
#if !FLY
                  UNROLL
                  for (int v = 0; v < (top == 0 ? WIDE : 0); v += LINE) PREFETCH(right + ((q + 1) * ic + j) * WIDE + v);
#elif MR > 4  // the next product's patches, too, where a strip's are too many to stay near
                  PREFETCH(left + ((q + 1) * patch_plane + top * row + j * MR));
#endif
                  vec values[NV];
                  UNROLL
                  for (int v = 0; v < NV; v++) values[v] = RIGHT(q, j * WIDE + v * V);
                  UNROLL
                  for (int i = 0; i < MR; i++)
                    UNROLL
                    for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(left[from[i] + j]), values[v], sum[i][v]);
                }
                UNROLL
                for (int i = 0; i < MR; i++)
                  UNROLL
                  for (int v = 0; v < NV; v++) STOREP(sums, i * WIDE + v * V, sum[i][v]);
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
