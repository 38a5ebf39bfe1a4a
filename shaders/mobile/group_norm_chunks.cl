//: op    = "GroupNormNhwc"
//: class = "mobile"
//: caps  = []
//: method = "two_commands"
//: why   = """The first of two commands for a large picture: sums and sums of squares of a chunk of pixels, a work-group
//:         for each; whole rows of memory are read."""
//: in    = ["x: stg[n, pixels, channels]"]
//: out   = ["sums: f32[n, rows, channels]"]
//: args  = ["n: int", "pixels: int", "channels: int", "chunk: int", "chunks: int", "rows: int", "blocks: int"]
//: grid  = ["blocks * X", "chunks", "n"]
//: group = ["X", "1", "1"]
//: tune  = {X = [256, 64, 128]}
//: needs = {channels = {multiple = 4}, c1 = {equal = "channels"}, per_group = {max = "X"}}
//: holds = [
//:   "SPAN % 4 == 0", "SPAN <= 4 * X", "channels == blocks * SPAN", "chunks == ceil_div(pixels, chunk)",
//:   "rows == 1 + 2 * chunks",
//: ]

#ifndef SPAN  // channels of a work-group: a multiple of 4 and of a group's
#error "SPAN is not defined"
#endif
#define VECS (SPAN / 4)
#define ROWS (X / VECS)  // pixels that are read side by side

KERNEL(group_norm_chunks)(IN(stg, x), OUT(float, sums), ARG(int, n), ARG(int, pixels), ARG(int, channels),
                          ARG(int, chunk), ARG(int, chunks), ARG(int, rows), ARG(int, blocks) GRID) {
  LOCAL(float, parts, X * 8);
  const int lane = LID(0), v = lane % VECS * 4, c = GID(0) / X * SPAN + v, part = GID(1), item = GID(2);
  IN_PTR(stg) from = x + item * pixels * channels + c;
  const int last = MIN((part + 1) * chunk, pixels), start = lane / VECS < ROWS ? part * chunk + lane / VECS : last;
  const vec origin = LOAD4(from, 0);  // the first pixel, taken off first: a mean far above the deviation costs no digits
  GROUP_PIXEL_SUMS(parts, from, channels, start, last, ROWS, origin)

  // Row 0 has the origins, which the picture itself may have lost before all is normalized in place; then two
  // rows per chunk.
  if (lane >= VECS) return;
  OUT_PTR(float) to = sums + item * rows * channels + c;
  if (part == 0) STOREP(to, 0, origin);
  STOREP(to, (1 + 2 * part) * channels, LOADP(parts, v));
  STOREP(to, (2 + 2 * part) * channels, LOADP(parts, X * 4 + v));
}
