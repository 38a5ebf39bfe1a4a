//: op    = "Conv"
//: class = "portable"
//: caps  = []
//: why   = """A 1x1 convolution is a matrix product over flattened pixels: matmul's tiles, MR channels by NV
//:         vectors, plus a bias."""
//: in    = ["x: stg[n, ic, h, w]", "weight: stg[oc, ic, kh, kw]", "bias: stg[oc]"]
//: out   = ["y: stg[n, oc, oh, ow]"]
//: args  = ["n: int", "ic: int", "h: int", "w: int", "oc: int"]
//: grid  = ["ceil_div(h * w, V * NV)", "ceil_div(oc, MR * MB)", "n"]
//: group = ["X", "Y", "1"]
//: tune.V = [16, 4, 8]
//: tune.NV = [4, 1, 2]
//: tune.MR = [6, 4, 8]
//: tune.MB = [8, 1, 2, 4, 16]
//: tune.KC = [128, 16, 64, 256]
//: tune.X = [1, 8, 16]
//: tune.Y = [1, 4, 8]
//: needs.kh = {max = 1}
//: needs.kw = {max = 1}
//: needs.stride = {max = 1}
//: needs.pad_top = {min = 0, max = 0}
//: needs.pad_left = {min = 0, max = 0}
//: needs.oh = {equal = "h"}
//: needs.ow = {equal = "w"}
//: reach = {weight = "oc * ic", y = "n * oc * h * w"}

KERNEL(conv2d_1x1)(IN(stg, x), IN(stg, weight), IN(stg, bias), OUT(stg, y), ARG(int, n), ARG(int, ic), ARG(int, h),
                   ARG(int, w), ARG(int, oc) GRID) {
  const int pixels = h * w, col = GID(0) * V * NV, first = GID(1) * MR * MB, item = GID(2);
  if (col >= pixels || first >= oc || item >= n) return;
  const int tiles = (MIN(MR * MB, oc - first) + MR - 1) / MR, y_item = item * oc * pixels;
  IN_PTR(stg) right = x + item * ic * pixels;

  if (pixels < V) {  // too few for a vector
    for (int r = first; r < MIN(first + MR * MB, oc); r++)
      for (int p = 0; p < pixels; p++) {
        float sum = LOAD(bias, r);
        for (int j = 0; j < ic; j++) sum = FMA(LOAD(weight, r * ic + j), LOAD(right, j * pixels + p), sum);
        STORE(y, y_item + r * pixels + p, sum);
      }
    return;
  }

  // A vector that would pass the last pixel moves back to end there: it computes some pixels a second time, to
  // the same values.
  int at[NV];
  for (int v = 0; v < NV; v++) at[v] = MIN(col + v * V, pixels - V);

  vec sums[MB * MR * NV];  // where tiles wait between blocks
  for (int start = 0; start < ic; start += KC) {
    const int depth = MIN(KC, ic - start);
    for (int tile = 0; tile < tiles; tile++) {
      const int top = first + tile * MR;
      float rows[MR * KC];
      vec sum[MR][NV];
      for (int i = 0; i < MR; i++) {
        // rows past the end repeat the last one and are not stored
        const int row = MIN(top + i, oc - 1), from = row * ic + start;
        int j = 0;
        for (; j + V <= depth; j += V) STOREP(rows, i * KC + j, LOADV(weight, from + j));
        for (; j < depth; j++) rows[i * KC + j] = LOAD(weight, from + j);
        for (int v = 0; v < NV; v++) sum[i][v] = start == 0 ? SPLAT(LOAD(bias, row)) : sums[(tile * MR + i) * NV + v];
      }
      for (int j = 0; j < depth; j++) {
        vec values[NV];
        for (int v = 0; v < NV; v++) values[v] = LOADV(right, (start + j) * pixels + at[v]);
        for (int i = 0; i < MR; i++)
          for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(rows[i * KC + j]), values[v], sum[i][v]);
      }
      if (start + KC < ic) {
        for (int i = 0; i < MR; i++)
          for (int v = 0; v < NV; v++) sums[(tile * MR + i) * NV + v] = sum[i][v];
      } else {
        for (int i = 0; i < MR; i++)
          if (top + i < oc)
            for (int v = 0; v < NV; v++) STOREV(y, y_item + (top + i) * pixels + at[v], sum[i][v]);
      }
    }
  }
}
