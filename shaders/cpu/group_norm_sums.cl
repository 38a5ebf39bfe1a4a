//: op    = "GroupNormNhwc"
//: class = "cpu"
//: caps  = []
//: method = "two_commands"
//: why   = """The first of two commands for a large picture: sums and sums of squares, a work-item for every chunk of
//:         pixels and SPAN channels."""
//: in    = ["x: stg[n, pixels, channels]"]
//: out   = ["sums: f32[n, rows, channels]"]
//: args  = ["n: int", "pixels: int", "channels: int", "chunk: int", "chunks: int", "rows: int", "blocks: int"]
//: grid  = ["blocks", "chunks", "n"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 8]}
//: needs = {channels = {multiple = "V"}, c1 = {equal = "channels"}}
//: holds = [
//:   "SPAN % V == 0", "SPAN <= 4096", "channels == blocks * SPAN", "chunks == ceil_div(pixels, chunk)",
//:   "rows == 1 + 2 * chunks",
//: ]

#ifndef SPAN  // channels of a work-item: a multiple of V and of a group's
#error "SPAN is not defined"
#endif
#define VECS (SPAN / V)
#define RUN 64  // pixels summed before they are added to the rest: errors grow with the run, not with the picture

KERNEL(group_norm_sums)(IN(stg, x), OUT(float, sums), ARG(int, n), ARG(int, pixels), ARG(int, channels),
                        ARG(int, chunk), ARG(int, chunks), ARG(int, rows), ARG(int, blocks) GRID) {
  const int c = GID(0) * SPAN, part = GID(1), item = GID(2);
  if (c >= channels || part >= chunks || item >= n) return;
  IN_PTR(stg) from = x + item * pixels * channels + c;
  const int last = MIN((part + 1) * chunk, pixels);

  // the first pixel is taken off first: a mean far above the deviation costs no digits
  vec origin[VECS], sum[VECS], square[VECS];
  UNROLL
  for (int v = 0; v < VECS; v++) {
    origin[v] = LOADV(from, v * V);
    sum[v] = square[v] = SPLAT(0.0f);
  }
  for (int start = part * chunk; start < last; start += RUN) {
    vec some[VECS], some_squares[VECS];
    UNROLL
    for (int v = 0; v < VECS; v++) some[v] = some_squares[v] = SPLAT(0.0f);
    for (int p = start; p < MIN(start + RUN, last); p++)
      UNROLL
      for (int v = 0; v < VECS; v++) {
        const vec d = LOADV(from, p * channels + v * V) - origin[v];
        some[v] += d;
        some_squares[v] = FMA(d, d, some_squares[v]);
      }
    UNROLL
    for (int v = 0; v < VECS; v++) {
      sum[v] += some[v];
      square[v] += some_squares[v];
    }
  }
  // Row 0 has the origins, which the picture itself may have lost before all is normalized in place; then two
  // rows per chunk.
  OUT_PTR(float) to = sums + item * rows * channels + c;
  UNROLL
  for (int v = 0; v < VECS; v++) {
    if (part == 0) STOREP(to, v * V, origin[v]);
    STOREP(to, (1 + 2 * part) * channels + v * V, sum[v]);
    STOREP(to, (2 + 2 * part) * channels + v * V, square[v]);
  }
}
