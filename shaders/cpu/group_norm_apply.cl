//: op    = "GroupNormNhwc"
//: class = "cpu"
//: caps  = []
//: method = "two_commands"
//: after = "group_norm_sums"
//: why   = """The second of two commands for a large picture: statistics from its sums, then scale, shift
//:         and activation."""
//: in    = [
//:   "x: stg[n, pixels, channels]", "sums: f32[n, rows, channels]", "scale: stg[channels]", "bias: stg[channels]",
//: ]
//: out   = ["y: stg[n, pixels, channels]"]
//: args  = [
//:   "n: int", "pixels: int", "channels: int", "per_group: int", "chunk: int", "chunks: int", "rows: int",
//:   "blocks: int", "epsilon: float",
//: ]
//: grid  = ["blocks", "chunks", "n"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 8]}
//: needs = {channels = {multiple = "V"}}
//: inplace = {x = ""}
//: holds = [
//:   "SPAN % V == 0", "SPAN % per_group == 0", "SPAN <= 4096", "channels == blocks * SPAN",
//:   "chunks == ceil_div(pixels, chunk)", "rows == 1 + 2 * chunks",
//: ]

#ifndef SPAN  // channels of a work-item: a multiple of V and of a group's
#error "SPAN is not defined"
#endif
#define VECS (SPAN / V)
#define ONCE (VECS % 5 == 0 ? 5 : VECS % 4 == 0 ? 4 : 1)  // vectors whose activation is computed together
#define AHEAD 8  // pixels: rows that are not read whole are not foreseen by a CPU

KERNEL(group_norm_apply)(IN(stg, x), IN(float, sums), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, n),
                         ARG(int, pixels), ARG(int, channels), ARG(int, per_group), ARG(int, chunk), ARG(int, chunks),
                         ARG(int, rows), ARG(int, blocks), ARG(float, epsilon) GRID) {
  const int c0 = GID(0) * SPAN, part = GID(1), item = GID(2);
  if (c0 >= channels || part >= chunks || item >= n) return;
  IN_PTR(float) from = sums + item * rows * channels + c0;

  float origins[SPAN], totals[SPAN], squares[SPAN], means[SPAN], gains[SPAN];
  for (int v = 0; v < SPAN; v += V) {
    vec total = SPLAT(0.0f), square = SPLAT(0.0f);
    for (int i = 1; i < rows; i += 2) {
      total += LOADP(from, i * channels + v);
      square += LOADP(from, (i + 1) * channels + v);
    }
    STOREP(origins, v, LOADP(from, v));
    STOREP(totals, v, total / (float)pixels);
    STOREP(squares, v, square / (float)pixels);
  }
  GROUP_STATISTICS(0, SPAN, per_group, 1.0f, totals, squares, origins, epsilon, means, gains)

  vec centre[VECS], gain[VECS], shift[VECS];
  UNROLL
  for (int v = 0; v < VECS; v++) {
    gain[v] = LOADP(gains, v * V) * LOADV(scale, c0 + v * V);
    shift[v] = LOADV(bias, c0 + v * V);
    ONE_CENTRE(centre[v], LOADP(origins, v * V), LOADP(means, v * V), gain[v], shift[v])
  }
  for (int p = part * chunk; p < MIN((part + 1) * chunk, pixels); p++)
    for (int some = 0; some < VECS; some += ONCE) {
      const int at = (item * pixels + p) * channels + c0 + some * V;
      vec z[ONCE];
      UNROLL
      for (int v = 0; v < ONCE; v++) {
        if (SPAN < channels) PREFETCH(OVERWRITTEN(x, y) + at + v * V + AHEAD * channels);
        z[v] = FMA(LOADV(OVERWRITTEN(x, y), at + v * V) - centre[some + v], gain[some + v], shift[some + v]);
      }
      ACTIVATE_EACH(z, ONCE)
      UNROLL
      for (int v = 0; v < ONCE; v++) STOREV(y, at + v * V, z[v]);
    }
}
