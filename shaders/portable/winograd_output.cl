//: op    = "ConvNhwc"
//: class = "portable"
//: caps  = []
//: method = "winograd"
//: after = "winograd_input"
//: why   = """36 products per tile back to 4x4 pixels: A^T m A (paper 3.3), with bias, shift, activation and residual
//:         as they are stored."""
//: in    = ["m: stg[36, count, oc]", "bias: stg[oc]", "shift: stg[n, oc]", "residual: stg[n, oh, ow, oc]"]
//: out   = ["y: stg[n, oh, ow, oc]"]
//: args  = [
//:   "oh: int", "ow: int", "oc: int", "tiles_h: int", "tiles_w: int", "first: int", "count: int", "shift_from: int",
//:   "shift_row: int",
//: ]
//: grid  = ["ceil_div(oc, V * STEPS)", "count", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [64, 1, 4], X = [1, 64]}
//: needs = {oc = {min = "V"}}
//: inplace = {residual = "oc"}
//: reach.bias = "HAS_BIAS * oc"
//: reach.shift = "HAS_SHIFT * (shift_from + (first + count - 1) // (tiles_h * tiles_w) * shift_row + oc)"
//: reach.residual = "HAS_ADD * ((first + count - 1) // (tiles_h * tiles_w) + 1) * oh * ow * oc"
//: reach.y = "((first + count - 1) // (tiles_h * tiles_w) + 1) * oh * ow * oc"
//: holds = ["4 * tiles_h * tiles_w < 2147483648", "first + count < 2147483648"]

KERNEL(winograd_output)(IN(stg, m), IN(stg, bias), IN(stg, shift), IN(stg, residual), OUT(stg, y), ARG(int, oh),
                        ARG(int, ow), ARG(int, oc), ARG(int, tiles_h), ARG(int, tiles_w), ARG(int, first),
                        ARG(int, count), ARG(int, shift_from), ARG(int, shift_row) GRID) {
  const int start = GID(0) * V * STEPS, row = GID(1);
  if (start >= oc || row >= count) return;
  const int tile = first + row, item = tile / (tiles_h * tiles_w), oy = tile / tiles_w % tiles_h * 4,
        ox = tile % tiles_w * 4;

  for (int step = start; step < MIN(start + V * STEPS, oc); step += V) {
    // the last vector ends at the last channel: some channels are done twice, to the same values
    const int c = MIN(step, oc - V);
    vec products[36], half_way[24];
    for (int i = 0; i < 36; i++) products[i] = LOADV(m, (i * count + row) * oc + c);
    for (int j = 0; j < 6; j++) {
      vec t[4];
      WINOGRAD_PIXELS(t, (products + j), 6)
      for (int i = 0; i < 4; i++) half_way[i * 6 + j] = t[i];
    }
    vec base = SPLAT(0.0f);
    ADD_BIAS(base, LOADV, c)
    ADD_SHIFT(base, LOADV, shift_from + item * shift_row + c)
    for (int i = 0; i < MIN(4, oh - oy); i++) {
      vec t[4];
      WINOGRAD_PIXELS(t, (half_way + i * 6), 1)
      for (int j = 0; j < MIN(4, ow - ox); j++) {
        const int out = ((item * oh + oy + i) * ow + ox + j) * oc + c;
        vec z = t[j] + base;
        z = ACTIVATE(z);
        ADD_RESIDUAL(z, LOADV, out)
        STOREV(y, out, z);
      }
    }
  }
}
