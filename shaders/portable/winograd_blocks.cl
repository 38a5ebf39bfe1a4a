//: op    = "WinogradBlocks"
//: class = "portable"
//: caps  = []
//: why   = """B^T d B (paper 3.3) once for all that reads it, where winograd_strips shares tiles out by channels."""
//: in    = ["x: stg[n, h, w, ic]"]
//: out   = ["y: f32[strips, room]"]
//: args  = [
//:   "n: int", "ic: int", "h: int", "w: int", "tiles_h: int", "tiles_w: int", "begun: int", "tiles: int", "strip: int",
//:   "block: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int",
//: ]
//: grid  = ["tiles", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: reach.y = "ceil_div(tiles, strip) * ceil_div(ic, block) * 36 * (strip * block + V)"
//: holds = [
//:   "4 * (begun + tiles) < 2147483648", "begun + tiles <= n * tiles_h * tiles_w", "1 <= strip", "V <= block",
//:   "V <= ic - (ceil_div(ic, block) - 1) * block", "1 <= up_h", "1 <= up_w", "up_h * h < 2147483648",
//:   "up_w * w < 2147483648",
//: ]

// Tiles `begun` and on, a work-item each: of each strip of them blocks of channels, of each block 36 planes, of each
// plane the strip's tiles, as winograd_strips reads them.
KERNEL(winograd_blocks)(IN(stg, x), OUT(float, y), ARG(int, n), ARG(int, ic), ARG(int, h), ARG(int, w),
                        ARG(int, tiles_h), ARG(int, tiles_w), ARG(int, begun), ARG(int, tiles), ARG(int, strip),
                        ARG(int, block), ARG(int, pad_top), ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w) GRID) {
  const int tile = GID(0), plane = strip * block + V, blocks = (ic + block - 1) / block;
  if (tile >= tiles) return;
  WINOGRAD_PATCHES(y + (tile / strip * blocks * 36 * plane + tile % strip * block), block, plane, begun + tile)
}
