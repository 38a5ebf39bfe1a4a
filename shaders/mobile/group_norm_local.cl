//: op    = "GroupNormNhwc"
//: class = "mobile"
//: caps  = []
//: why   = """One command (paper 3.1): a work-group has SPAN channels, whole groups of them and whole vectors, and sums
//:         in one pass; neighbours read neighbouring channels."""
//: in    = ["x: stg[n, pixels, c1]", "x2: stg[n, pixels, channels]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[n, pixels, channels]"]
//: args  = ["n: int", "pixels: int", "channels: int", "c1: int", "per_group: int", "blocks: int", "epsilon: float"]
//: grid  = ["blocks * X", "n", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [256, 64, 128]}
//: needs = {channels = {multiple = 4}, c1 = {multiple = 4}, per_group = {max = "X"}}
//: inplace = {x = ""}
//: reach = {x2 = "n * pixels * (channels - c1)"}
//: holds = ["SPAN % 4 == 0", "SPAN % per_group == 0", "SPAN <= 4 * X", "channels == blocks * SPAN", "c1 <= channels"]

#ifndef SPAN  // channels of a work-group: a multiple of 4 and of per_group
#error "SPAN is not defined"
#endif
#define VECS (SPAN / 4)
#define ROWS (X / VECS)  // pixels that are read side by side

// There are as many work-groups as pictures have whole groups of whole vectors: 32 for an autoencoder's 128 channels,
// 8 bytes of a pixel each. Large pictures are faster in two commands, group_norm_chunks and group_norm_finish.
// In place x stands where y is written: the work-group that has some channels reads all of them before it stores any.

KERNEL(group_norm_local)(IN(stg, x), IN(stg, x2), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, n),
                         ARG(int, pixels), ARG(int, channels), ARG(int, c1), ARG(int, per_group), ARG(int, blocks),
                         ARG(float, epsilon) GRID) {
  LOCAL(float, parts, X * 8);
  LOCAL(float, origins, SPAN);
  LOCAL(float, means, SPAN);
  LOCAL(float, gains, SPAN);
  const int lane = LID(0), first = GID(0) / X * SPAN, item = GID(1);
  const int v = lane % VECS * 4, c = first + v, start = lane / VECS < ROWS ? lane / VECS : pixels;

  // Channels below c1 stand in x, the others in x2. c1 is a multiple of 4, so a vector never has both.
  const int row = c < c1 ? c1 : channels - c1;
  IN_PTR(stg) from = c < c1 ? OVERWRITTEN(x, y) + item * pixels * c1 + c : x2 + item * pixels * row + c - c1;
  const vec origin = LOAD4(from, 0);  // the first pixel, taken off first: a mean far above the deviation costs no digits
  if (lane < VECS) STOREP(origins, v, origin);
  GROUP_PIXEL_SUMS(parts, from, row, start, pixels, ROWS, origin)

  const float count = (float)pixels;
  for (int g = lane * per_group; g < SPAN; g += X * per_group)
    GROUP_STATISTICS(g, g + per_group, per_group, count, parts, (parts + X * 4), origins, epsilon, means, gains)
  BARRIER_ALL();  // every group's statistics are there, and x has been read where y takes its place
  const vec mean = LOADP(means, v), gain = LOADP(gains, v) * LOAD4(scale, c), shift = LOAD4(bias, c);
  for (int p = start; p < pixels; p += ROWS) {
    const vec z = FMA(LOAD4(from, p * row) - origin - mean, gain, shift);
    STORE4(y, (item * pixels + p) * channels + c, ACTIVATE(z));
  }
}
