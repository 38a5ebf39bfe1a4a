//: op    = "ConvNhwc"
//: class = "mobile"
//: caps  = []
//: method = "winograd"
//: after = "winograd_patches"
//: why   = """A^T m A of 36 products per tile (paper 3.3): as in winograd_patches six work-items share a tile of 4 channels,
//:         a column each; then four have a row of pixels each, with bias, shift, activation and residual."""
//: in    = ["m: stg[36, count, oc]", "bias: stg[oc]", "shift: stg[n, oc]", "residual: stg[n, oh, ow, oc]"]
//: out   = ["y: stg[n, oh, ow, oc]"]
//: args  = [
//:   "oh: int", "ow: int", "oc: int", "tiles_h: int", "tiles_w: int", "first: int", "count: int", "shift_from: int",
//:   "shift_row: int",
//: ]
//: grid  = ["oc // 4", "Y", "count"]
//: group = ["X", "Y", "1"]
//: tune  = {X = [16, 8, 32], Y = [6]}
//: needs = {oc = {multiple = 4}}
//: inplace = {residual = ""}
//: reach.bias = "HAS_BIAS * oc"
//: reach.shift = "HAS_SHIFT * (shift_from + (first + count - 1) // (tiles_h * tiles_w) * shift_row + oc)"
//: reach.residual = "HAS_ADD * ((first + count - 1) // (tiles_h * tiles_w) + 1) * oh * ow * oc"
//: reach.y = "((first + count - 1) // (tiles_h * tiles_w) + 1) * oh * ow * oc"
//: holds = ["4 * tiles_h * tiles_w < 2147483648", "first + count < 2147483648"]

KERNEL(winograd_pixels)(IN(stg, m), IN(stg, bias), IN(stg, shift), IN(stg, residual), OUT(stg, y), ARG(int, oh),
                        ARG(int, ow), ARG(int, oc), ARG(int, tiles_h), ARG(int, tiles_w), ARG(int, first),
                        ARG(int, count), ARG(int, shift_from), ARG(int, shift_row) GRID) {
  LOCAL(vec, half_way, 24 * X);
  const int lane = LID(0), line = LID(1), row = GID(2);
  const int c = MIN(GID(0) * 4, oc - 4);  // everyone comes to the barrier; past the last channels nothing is stored
  const int tile = first + row, item = tile / (tiles_h * tiles_w), oy = tile / tiles_w % tiles_h * 4 + line,
            ox = tile % tiles_w * 4;

  vec d[6], t[4];
  UNROLL
  for (int i = 0; i < 6; i++) d[i] = LOAD4(m, ((i * 6 + line) * count + row) * oc + c);
  WINOGRAD_PIXELS(t, d, 1)
  UNROLL
  for (int i = 0; i < 4; i++) half_way[(i * 6 + line) * X + lane] = t[i];
  BARRIER();  // the columns are there
  if (line >= 4 || oy >= oh || GID(0) * 4 >= oc) return;
  UNROLL
  for (int j = 0; j < 6; j++) d[j] = half_way[(line * 6 + j) * X + lane];
  WINOGRAD_PIXELS(t, d, 1)

  vec base = SPLAT(0.0f);
  ADD_BIAS(base, LOAD4, c)
  ADD_SHIFT(base, LOAD4, shift_from + item * shift_row + c)
  UNROLL
  for (int j = 0; j < 4; j++) {
    if (ox + j >= ow) continue;
    const int out = ((item * oh + oy) * ow + ox + j) * oc + c;
    vec z = t[j] + base;
    z = ACTIVATE(z);
    ADD_RESIDUAL(z, LOAD4, out)
    STORE4(y, out, z);
  }
}
