//: op    = "ConvNhwc"
//: class = "mobile"
//: caps  = []
//: uses  = ["image2d"]
//: method = "winograd"
//: why   = """B^T d B of 6x6 patches, 4 apart (paper 3.3). A patch of 4 channels is 36 vectors, more registers than phones
//:         give a work-item: six share it, a column each, then a row each, which they exchange through local memory."""
//: in    = ["x: tex[n, h, w, ic]"]
//: out   = ["y: stg[36, count, ic]"]
//: args  = [
//:   "h: int", "w: int", "ic: int", "tiles_h: int", "tiles_w: int", "first: int", "count: int", "pad_top: int",
//:   "pad_left: int", "up_h: int", "up_w: int",
//: ]
//: grid  = ["ic // 4", "Y", "count"]
//: group = ["X", "Y", "1"]
//: tune  = {X = [16, 8, 32], Y = [6]}
//: needs.kh = {min = 3, max = 3}
//: needs.kw = {min = 3, max = 3}
//: needs.stride = {max = 1}
//: needs.ic = {multiple = 4}
//: needs.cramped = {max = 0}
//: reach = {x = "((first + count - 1) // (tiles_h * tiles_w) + 1) * h * w * ic"}
//: holds = [
//:   "1 <= up_h", "1 <= up_w", "4 * tiles_h * tiles_w < 2147483648", "first + count < 2147483648",
//:   "up_h * h < 2147483648", "up_w * w < 2147483648",
//: ]

KERNEL(winograd_patches)(IN_TEX(x), OUT(stg, y), ARG(int, h), ARG(int, w), ARG(int, ic), ARG(int, tiles_h),
                         ARG(int, tiles_w), ARG(int, first), ARG(int, count), ARG(int, pad_top), ARG(int, pad_left),
                         ARG(int, up_h), ARG(int, up_w) GRID) {
  LOCAL(vec, half_way, 36 * X);
  const int lane = LID(0), line = LID(1), row = GID(2), fours = ic / 4;
  const int c = MIN(GID(0), fours - 1);  // everyone comes to the barrier; past the last channels nothing is stored
  const int tile = first + row, item = tile / (tiles_h * tiles_w), top = tile / tiles_w % tiles_h * 4 - pad_top,
            left = tile % tiles_w * 4 + line - pad_left;
  // up_h by up_w is the picture once repeated to its larger size, h by w as it is stored; -1 is padding.
  const int ix = left < 0 || left >= up_w ? -1 : up_w == w ? left : left * w / up_w;

  vec d[6], t[6];
  UNROLL
  for (int i = 0; i < 6; i++) {
    const int iy = top + i, pixel = (item * h + (up_h == h ? iy : iy * h / up_h)) * w + ix;
    d[i] = SPLAT(0.0f);
    if (ix >= 0 && iy >= 0 && iy < up_h) d[i] = TO_VEC(LOADT(x, pixel, c, fours));
  }
  WINOGRAD_PATCH(t, d, 1)
  UNROLL
  for (int i = 0; i < 6; i++) half_way[(i * 6 + line) * X + lane] = t[i];
  BARRIER();  // the columns are there
  UNROLL
  for (int j = 0; j < 6; j++) d[j] = half_way[(line * 6 + j) * X + lane];
  WINOGRAD_PATCH(t, d, 1)
  if (GID(0) >= fours) return;
  UNROLL
  for (int j = 0; j < 6; j++) STORE4(y, ((line * 6 + j) * count + row) * ic + c * 4, t[j]);
}
