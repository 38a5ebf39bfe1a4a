//: op    = "ConvNhwc"
//: why   = "A matrix product whose rows are patches: MR pixels by NV vectors of channels, blocks of KC (tap, channel) pairs. Any size and stride."
//: in    = ["x: stg[n, h, w, ic]", "weight: stg[kh, kw, ic, ldb]", "bias: stg[ldb]", "shift: stg[n, oc]", "residual: stg[n, oh, ow, oc]"]
//: out   = ["y: stg[n, oh, ow, oc]"]
//: args  = ["n: int", "ic: int", "h: int", "w: int", "oc: int", "ldb: int", "oh: int", "ow: int", "kh: int", "kw: int", "stride: int", "pad_top: int", "pad_left: int", "up_h: int", "up_w: int", "shift_from: int", "shift_row: int"]
//: grid  = ["ceil_div(oc, V * NV)", "ceil_div(oh * ow, MR * MB)", "n"]
//: group = ["X", "Y", "1"]
//: tune  = {V = [16, 4, 8], NV = [4, 1, 2], MR = [6, 4, 8], MB = [8, 1, 2, 4, 16], KC = [128, 16, 64, 256], X = [1, 8, 16], Y = [1, 4, 8]}
//: needs = {}

KERNEL(conv2d_nhwc)(IN(stg, x), IN(stg, weight), IN(stg, bias), IN(stg, shift), IN(stg, residual), OUT(stg, y), ARG(int, n), ARG(int, ic),
                    ARG(int, h), ARG(int, w), ARG(int, oc), ARG(int, ldb), ARG(int, oh), ARG(int, ow), ARG(int, kh), ARG(int, kw),
                    ARG(int, stride), ARG(int, pad_top), ARG(int, pad_left), ARG(int, up_h), ARG(int, up_w), ARG(int, shift_from),
                    ARG(int, shift_row) GRID) {
  const int pixels = oh * ow, col = GID(0) * V * NV, first = GID(1) * MR * MB, item = GID(2);
  if (col >= oc || first >= pixels || item >= n) return;
  const int tiles = (MIN(MR * MB, pixels - first) + MR - 1) / MR, k = kh * kw * ic;

  // A vector that would pass the last channel moves back to end there: it computes some channels a second time, to the same values.
  // Weight and bias are padded to one vector where there are fewer channels.
  int at[NV];
  for (int v = 0; v < NV; v++) at[v] = MIN(col + v * V, ldb - V);

  vec sums[MB * MR * NV];  // where tiles wait between blocks
  for (int start = 0; start < k; start += KC) {
    const int depth = MIN(KC, k - start);
    for (int tile = 0; tile < tiles; tile++) {
      const int top = first + tile * MR;
      float rows[MR * KC];
      for (int i = 0; i < MR; i++) {
        const int pixel = MIN(top + i, pixels - 1);  // pixels past the end repeat the last one and are not stored
        const int oy = pixel / ow * stride - pad_top, ox = pixel % ow * stride - pad_left;
        int to = i * KC, j = 0;
        while (j < depth) {  // a run of channels under one tap
          const int tap = (start + j) / ic, c = (start + j) % ic, run = MIN(ic - c, depth - j);
          const int iy = oy + tap / kw, ix = ox + tap % kw, end = to + run;
          if (iy < 0 || iy >= up_h || ix < 0 || ix >= up_w) {
            for (; to < end; to++) rows[to] = 0.0f;
          } else {
            // up_h by up_w is the picture once repeated to its larger size (nearest neighbour); h by w as it is stored.
            int from = ((item * h + iy * h / up_h) * w + ix * w / up_w) * ic + c;
            for (; to + V <= end; to += V, from += V) STOREP(rows, to, LOADV(x, from));
            for (; to < end; to++, from++) rows[to] = LOAD(x, from);
          }
          j += run;
        }
      }
      vec sum[MR][NV];
      for (int i = 0; i < MR; i++)
        for (int v = 0; v < NV; v++) sum[i][v] = start == 0 ? SPLAT(0.0f) : sums[(tile * MR + i) * NV + v];
      for (int j = 0; j < depth; j++) {
        vec values[NV];
        for (int v = 0; v < NV; v++) values[v] = LOADV(weight, (start + j) * ldb + at[v]);
        for (int i = 0; i < MR; i++)
          for (int v = 0; v < NV; v++) sum[i][v] = FMA(SPLAT(rows[i * KC + j]), values[v], sum[i][v]);
      }
      if (start + KC < k) {
        for (int i = 0; i < MR; i++)
          for (int v = 0; v < NV; v++) sums[(tile * MR + i) * NV + v] = sum[i][v];
        continue;
      }
      for (int i = 0; i < MR; i++) {
        if (top + i >= pixels) continue;
        for (int v = 0; v < NV; v++) {
          const int out = (item * pixels + top + i) * oc + at[v], shift_at = shift_from + item * shift_row + at[v];
          vec z = sum[i][v];
#if HAS_BIAS
          z += LOADV(bias, at[v]);
#endif
          if (at[v] + V <= oc) {
#if HAS_SHIFT
            z += LOADV(shift, shift_at);
#endif
            z = ACTIVATE(z);
#if HAS_ADD
            z += LOADV(residual, out);
#endif
            STOREV(y, out, z);
            continue;
          }
          float line[V];
          STOREP(line, 0, z);
          for (int c = 0; c < oc; c++) {
            float one = line[c];
#if HAS_SHIFT
            one += LOAD(shift, shift_at + c);
#endif
            one = ACTIVATE(one);
#if HAS_ADD
            one += LOAD(residual, out + c);
#endif
            STORE(y, out + c, one);
          }
        }
      }
    }
  }
}
