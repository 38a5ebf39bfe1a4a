//: op    = "ConvNhwc"
//: class = "portable"
//: caps  = []
//: method = "winograd"
//: why   = """6x6 patches, 4 apart, into the space where a 3x3 convolution is 36 products: B^T d B (paper 3.3). A
//:         work-item has V channels of a tile."""
//: in    = ["x: stg[n, h, w, ic]"]
//: out   = ["y: stg[36, count, ic]"]
//: args  = [
//:   "h: int", "w: int", "ic: int", "tiles_h: int", "tiles_w: int", "first: int", "count: int", "pad_top: int",
//:   "pad_left: int", "up_h: int", "up_w: int",
//: ]
//: grid  = ["ceil_div(ic, V * STEPS)", "count", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [64, 1, 4], X = [1, 64]}
//: needs = {kh = {min = 3, max = 3}, kw = {min = 3, max = 3}, stride = {max = 1}, ic = {min = "V"}, cramped = {max = 0}}
//: reach = {x = "((first + count - 1) // (tiles_h * tiles_w) + 1) * h * w * ic"}
//: holds = [
//:   "1 <= up_h", "1 <= up_w", "4 * tiles_h * tiles_w < 2147483648", "first + count < 2147483648",
//:   "up_h * h < 2147483648", "up_w * w < 2147483648",
//: ]

KERNEL(winograd_input)(IN(stg, x), OUT(stg, y), ARG(int, h), ARG(int, w), ARG(int, ic), ARG(int, tiles_h),
                       ARG(int, tiles_w), ARG(int, first), ARG(int, count), ARG(int, pad_top), ARG(int, pad_left),
                       ARG(int, up_h), ARG(int, up_w) GRID) {
  const int start = GID(0) * V * STEPS, row = GID(1);
  if (start >= ic || row >= count) return;
  const int tile = first + row, item = tile / (tiles_h * tiles_w), tile_y = tile / tiles_w % tiles_h,
        tile_x = tile % tiles_w;

  // Where the patch's pixels are: up_h by up_w is the picture once repeated to its larger size, h by w as it is stored;
  // -1 is padding.
  int at[36];
  for (int i = 0; i < 6; i++)
    for (int j = 0; j < 6; j++) {
      const int iy = tile_y * 4 + i - pad_top, ix = tile_x * 4 + j - pad_left;
      at[i * 6 + j] = iy < 0 || iy >= up_h || ix < 0 || ix >= up_w ? -1 :
          ((item * h + iy * h / up_h) * w + ix * w / up_w) * ic;
    }

  for (int step = start; step < MIN(start + V * STEPS, ic); step += V) {
    // the last vector ends at the last channel: some channels are done twice, to the same values
    const int c = MIN(step, ic - V);
    vec patch[36], half_way[36];
    for (int i = 0; i < 36; i++) patch[i] = at[i] < 0 ? SPLAT(0.0f) : LOADV(x, at[i] + c);
    for (int j = 0; j < 6; j++) {
      vec t[6];
      WINOGRAD_PATCH(t, (patch + j), 6)
      for (int i = 0; i < 6; i++) half_way[i * 6 + j] = t[i];
    }
    for (int i = 0; i < 6; i++) {
      vec t[6];
      WINOGRAD_PATCH(t, (half_way + i * 6), 1)
      for (int j = 0; j < 6; j++) STOREV(y, ((i * 6 + j) * count + row) * ic + c, t[j]);
    }
  }
}
