//: op    = "ConvNhwc"
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16"]
//: method = "winograd"
//: why   = """F(4x4, 3x3) in one command: the transforms are float, and a strip's patches and 12 of 36 taps at a time
//:         become bf16 in scratch, from where blocks of 2 by 2 tiles use them."""
//: in    = [
//:   "x: stg[n, h, w, ic]", "weight: wgt[panels, taps, ic, wide]", "bias: stg[panels, wide]", "shift: stg[n, oc]",
//:   "residual: stg[n, oh, ow, oc]", "scales: scl[panels, wide]",
//: ]
//: out   = ["y: stg[n, oh, ow, oc]", "scratch: f32[groups, slot]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "oc: int", "oh: int", "ow: int", "tiles_h: int", "tiles_w: int",
//:   "tiles: int", "strip: int", "room: int", "depth: int", "panels: int", "share: int", "chunk: int", "groups: int",
//:   "slot: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int",
//: ]
//: grid  = ["groups", "1", "1"]
//: group = ["1", "1", "1"]
//: tune.V = [16]
//: tune.NV = [2]
//: tune.STRIP = [60, 36, 96]
//: tune.DEPTH = [320, 128, 640]
//: tune.SHARE = [320, 128, 640]
//: needs.kh = {min = 3, max = 3}
//: needs.kw = {min = 3, max = 3}
//: needs.stride = {max = 1}
//: needs.ic = {multiple = 32}
//: needs.tiles = {min = 12}
//: inplace = {residual = ""}
//: layout = {tune = ["V", "NV"], by = ["ic", "oc"], gives = ["panels", "groups", "slot"]}
//: reach.weight = "panels * 9 * ic * V * NV // (1 + W4)"
//: reach.bias = "HAS_BIAS * panels * V * NV"
//: reach.shift = "HAS_SHIFT * (shift_from + (n - 1) * shift_row + oc)"
//: reach.residual = "HAS_ADD * n * oh * ow * oc"
//: reach.scales = "(W8 + W4 * ceil_div(9 * ic, 32)) * panels * V * NV"
//: holds = [
//:   "tiles + strip < 2147483648", "panels + chunk < 2147483648", "4 * tiles < 2147483648",
//:   "tiles == n * tiles_h * tiles_w", "1 <= strip", "1 <= share", "1 <= chunk", "32 <= depth", "depth % 32 == 0",
//:   "(1 - RAGGED) * (oc % V) == 0", "ceil_div(strip, 12) * 12 <= room", "ceil_div(strip, 32) * 32 <= room",
//:   "36 * (share * (room * V * NV + 16) + room * (depth // 2 + 16) + 16) + 12 * (DEPTH // 2 * V * NV + 16) <= slot",
//:   "1 <= up_h", "1 <= up_w", "ceil_div(tiles, strip) * ceil_div(panels, chunk) + groups < 2147483648",
//:   "up_h * h < 2147483648", "up_w * w < 2147483648", "W8 + W4 <= 1",
//: ]

// STRIP and SHARE bound sizes that lowering gives as arguments, as in winograd_strips: tiles, channels out at a time.
// A task is a strip of tiles by a chunk of panels; its patches are of `depth` channels, all that have room, and DEPTH of
// them are summed at a time. `room` is a strip's tiles up to whole blocks of any spelling of the unit: those past the
// last one are computed and not stored.
#ifndef RAGGED  // the last vector of y is not full: see conv2d_nhwc
#define RAGGED 1
#endif
#define WIDE (V * NV)
#define TAP_PLANE (DEPTH / 2 * WIDE + 16)

KERNEL(winograd_bf16)(IN(stg, x), IN(wgt, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual), IN(scl, scales),
                      OUT(stg, y), OUT(float, scratch), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w),
                      ARG(int, oc), ARG(int, oh), ARG(int, ow), ARG(int, tiles_h), ARG(int, tiles_w), ARG(int, tiles),
                      ARG(int, strip), ARG(int, room), ARG(int, depth), ARG(int, panels), ARG(int, share),
                      ARG(int, chunk), ARG(int, groups), ARG(int, slot), ARG(int, pad_top), ARG(int, pad_left),
                      ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from), ARG(int, shift_row) GRID) {
  if (GID(0) >= groups) return;
  // In pairs of channels. A line of cache between rows, and between planes: a power of two apart they share few sets.
  const int row = depth / 2 + 16, patch_plane = room * row + 16, product_plane = room * WIDE + 16;
  const int chunks = (panels + chunk - 1) / chunk, strips = (tiles + strip - 1) / strip;
  OUT_PTR(float) products = scratch + GID(0) * slot;
  OUT_PTR(uint) taps = (OUT_PTR(uint))(products + 36 * share * product_plane);
  OUT_PTR(uint) patches = taps + 12 * TAP_PLANE;
  MAT_BEGIN

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
          for (int c = 0; c < part; c += 2 * V) {  // whole lines of cache
            vec half_way[36], half_way_on[36];
#define PIXEL(i, j) (at[(i) * 6 + (j)] < 0 ? SPLAT(0.0f) : LOADV(x, at[(i) * 6 + (j)] + c))
#define PIXEL_ON(i, j) (at[(i) * 6 + (j)] < 0 ? SPLAT(0.0f) : LOADV(x, at[(i) * 6 + (j)] + c + V))
            WINOGRAD_PATCH_COLUMNS(half_way, PIXEL)
            WINOGRAD_PATCH_COLUMNS(half_way_on, PIXEL_ON)
            for (int i = 0; i < 6; i++) {
              vec z[6], on[6];
              WINOGRAD_PATCH(z, (half_way + i * 6), 1)
              WINOGRAD_PATCH(on, (half_way_on + i * 6), 1)
              UNROLL
              for (int j = 0; j < 6; j++)
                STORE_PAIRS_ON(patches, (i * 6 + j) * patch_plane + t * row + c / 2, z[j], on[j])
            }
          }
        }

        for (int panel = some; panel < MIN(some + share, to_panel); panel++) {
          IN_PTR(wgt) given = WGT_AT(weight, (panel * 9 * ic + start) * WIDE);
          OUT_PTR(float) sums = products + (panel - some) * 36 * product_plane;
          for (int turn = 0; turn < 3 * ((part + DEPTH - 1) / DEPTH); turn++) {  // two rows of products at a time
            const int pair = turn % 3, from = turn / 3 * DEPTH / 2, to = MIN(from + DEPTH / 2, part / 2);
#define TAP(t, j) WINOGRAD_TAP(given, start, t, j)
            for (int j = from; j < to; j++)
              for (int v = 0; v < WIDE; v += V) {
                vec even[12];
#define KEEP(q, z, j) even[q] = z;
#define KEEP_PAIRS(q, z, i) STORE_PAIRED(taps, 0, (q) * TAP_PLANE + (j - from) * WIDE + v, even[q], z)
                WINOGRAD_TAP_PAIR(KEEP, TAP, 2 * j * WIDE + v, pair)
                WINOGRAD_TAP_PAIR(KEEP_PAIRS, TAP, (2 * j + 1) * WIDE + v, pair)
              }
            // While these are multiplied the next ones come nearer, a quarter of a tap for each product.
            IN_PTR(wgt) next = given;
            if (2 * to < part) next = WGT_AT(next, 2 * to * WIDE);
            else if (panel + 1 < to_panel) next = WGT_AT(next, 9 * ic * WIDE);
#define NEXT(q, j) PREFETCH(WGT_AT(next, ((3 * pair + (q) / 4) * ic + ((q) % 4 * (to - from) + (j)) / 2) * WIDE))
            for (int q = 0; q < 12; q++)
              for (int block = 0; block < count; block += BLOCK_M) {
                OUT_PTR(float) sum = sums + WINOGRAD_PRODUCT(pair, q) * product_plane + block * WIDE;
                OUT_PTR(uint) left = patches + WINOGRAD_PRODUCT(pair, q) * patch_plane + block * row + from;
                if (start + from > 0) { BLOCK_LOAD(sum, WIDE) }
                else { BLOCK_ZERO }
                for (int j = 0; j < to - from; j += MAT_K / 2) {
                  if (block == 0) { NEXT(q, j); }
                  BLOCK_MULTIPLY(left + j, row, 0, taps + q * TAP_PLANE + j * WIDE, WIDE, 0)
                }
                BLOCK_STORE(sum, WIDE)
              }
          }
        }
      }

      // Pixels: A^T m A, and what follows a convolution.
      WINOGRAD_STORE_STRIP(products, product_plane, first, count, some, MIN(some + share, to_panel))
    }
  }
  MAT_END
}
