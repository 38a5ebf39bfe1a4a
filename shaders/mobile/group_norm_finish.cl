//: op    = "GroupNormNhwc"
//: class = "mobile"
//: caps  = []
//: method = "two_commands"
//: after = "group_norm_chunks"
//: why   = """The second of two commands for a large picture: a work-group adds the sums up, has its groups' statistics
//:         in local memory, and does the rest for a chunk."""
//: in    = [
//:   "x: stg[n, pixels, channels]", "sums: f32[n, rows, channels]", "scale: stg[channels]", "bias: stg[channels]",
//: ]
//: out   = ["y: stg[n, pixels, channels]"]
//: args  = [
//:   "n: int", "pixels: int", "channels: int", "per_group: int", "chunk: int", "chunks: int", "rows: int",
//:   "blocks: int", "epsilon: float",
//: ]
//: grid  = ["blocks * X", "chunks", "n"]
//: group = ["X", "1", "1"]
//: tune  = {X = [256, 64, 128]}
//: needs = {per_group = {max = "X"}}
//: inplace = {x = ""}
//: holds = [
//:   "SPAN % 4 == 0", "SPAN % per_group == 0", "SPAN <= 4 * X", "channels == blocks * SPAN",
//:   "chunks == ceil_div(pixels, chunk)", "rows == 1 + 2 * chunks",
//: ]

#ifndef SPAN  // channels of a work-group: a multiple of 4 and of a group's
#error "SPAN is not defined"
#endif
#define VECS (SPAN / 4)
#define ROWS (X / VECS)  // pixels that are read side by side

KERNEL(group_norm_finish)(IN(stg, x), IN(float, sums), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, n),
                          ARG(int, pixels), ARG(int, channels), ARG(int, per_group), ARG(int, chunk), ARG(int, chunks),
                          ARG(int, rows), ARG(int, blocks), ARG(float, epsilon) GRID) {
  LOCAL(float, origins, SPAN);
  LOCAL(float, totals, SPAN);
  LOCAL(float, squares, SPAN);
  LOCAL(float, means, SPAN);
  LOCAL(float, gains, SPAN);
  const int lane = LID(0), first = GID(0) / X * SPAN, part = GID(1), item = GID(2);
  IN_PTR(float) from = sums + item * rows * channels + first;
  for (int c = lane; c < SPAN; c += X) {
    float total = 0.0f, square = 0.0f;
    for (int i = 1; i < rows; i += 2) {
      total += from[i * channels + c];
      square += from[(i + 1) * channels + c];
    }
    origins[c] = from[c];
    totals[c] = total;
    squares[c] = square;
  }
  BARRIER();  // every channel's sums are there
  const float count = (float)pixels;
  for (int g = lane * per_group; g < SPAN; g += X * per_group)
    GROUP_STATISTICS(g, g + per_group, per_group, count, totals, squares, origins, epsilon, means, gains)
  BARRIER();  // every group's statistics are there

  const int v = lane % VECS * 4, c = first + v, last = MIN((part + 1) * chunk, pixels);
  const vec origin = LOADP(origins, v), mean = LOADP(means, v);  // apart: their sum would be rounded
  const vec gain = LOADP(gains, v) * LOAD4(scale, c), shift = LOAD4(bias, c);
  if (lane / VECS >= ROWS) return;
  for (int p = part * chunk + lane / VECS; p < last; p += ROWS) {
    const int at = (item * pixels + p) * channels + c;
    const vec z = FMA(LOAD4(OVERWRITTEN(x, y), at) - origin - mean, gain, shift);
    STORE4(y, at, ACTIVATE(z));
  }
}
