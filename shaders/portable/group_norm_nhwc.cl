//: op    = "GroupNormNhwc"
//: class = "portable"
//: caps  = []
//: why   = """One command (paper 3.1): a group of X work-items has SPAN channels, whole groups of them and whole
//:         vectors, of one picture. Reads x twice."""
//: in    = ["x: stg[n, pixels, c1]", "x2: stg[n, pixels, channels]", "scale: stg[channels]", "bias: stg[channels]"]
//: out   = ["y: stg[n, pixels, channels]"]
//: args  = ["n: int", "pixels: int", "channels: int", "c1: int", "per_group: int", "blocks: int", "epsilon: float"]
//: grid  = ["blocks * X", "n", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {channels = {multiple = "V"}, c1 = {multiple = "V"}}
//: inplace = {x = ""}
//: reach = {x2 = "n * pixels * (channels - c1)"}
//: holds = [
//:   "SPAN % V == 0", "SPAN % per_group == 0", "SPAN <= 4096", "channels == blocks * SPAN", "c1 <= channels",
//: ]

#ifndef SPAN  // channels of a work-group: a multiple of V and of per_group
#error "SPAN is not defined"
#endif
#define VECS (SPAN / V)
#define ONCE (VECS % 5 == 0 ? 5 : VECS % 4 == 0 ? 4 : 1)  // vectors whose activation is computed together
#define RUN 16  // pixels of which some channels are worked on before others: their sums and factors stay in registers

// What `count` pixels of a work-item's, from p on, add to the sums of all channels.
#define ADD_PIXELS(count)                                  \
  for (int v = 0; v < VECS; v++) {                         \
    vec some = SPLAT(0.0f), some_squares = SPLAT(0.0f);    \
    UNROLL                                                 \
    for (int i = 0; i < (count); i++) {                    \
      const vec d = LOADV(from[v], (p + i * X) * row[v]) - origin[v]; \
      some += d;                                           \
      some_squares = FMA(d, d, some_squares);              \
    }                                                      \
    sum[v] += some;                                        \
    square[v] += some_squares;                             \
  }

// In place x stands where y is written: the work-group that has some channels reads all of them before it stores any.

KERNEL(group_norm_nhwc)(IN(stg, x), IN(stg, x2), IN(stg, scale), IN(stg, bias), OUT(stg, y), ARG(int, n),
                        ARG(int, pixels), ARG(int, channels), ARG(int, c1), ARG(int, per_group), ARG(int, blocks),
                        ARG(float, epsilon) GRID) {
  LOCAL(float, sums, SPAN);
  LOCAL(float, squares, SPAN);
  LOCAL(float, parts, X * V * 2);
  const int lane = LID(0), first = GID(0) / X * SPAN, item = GID(1);
  if (first >= channels || item >= n) return;  // a whole work-group: nobody waits for it

  // Channels below c1 stand in x, the others in x2. c1 is a multiple of V, so a vector never has both.
  IN_PTR(stg) from[VECS];
  int row[VECS];
  vec origin[VECS];  // the first pixel, taken off first: a mean far above the deviation costs no digits
  for (int v = 0; v < VECS; v++) {
    const int c = first + v * V;
    row[v] = c < c1 ? c1 : channels - c1;
    from[v] = c < c1 ? OVERWRITTEN(x, y) + item * pixels * c1 + c : x2 + item * pixels * (channels - c1) + c - c1;
    origin[v] = LOADV(from[v], 0);
  }

  vec sum[VECS], square[VECS];
  for (int v = 0; v < VECS; v++) sum[v] = square[v] = SPLAT(0.0f);
  int p = lane;
  for (; p + (RUN - 1) * X < pixels; p += RUN * X) ADD_PIXELS(RUN)
  for (; p < pixels; p += X) ADD_PIXELS(1)

  for (int v = 0; v < VECS; v++) {
    STOREP(parts, lane * V, sum[v]);
    STOREP(parts, (X + lane) * V, square[v]);
    BARRIER();  // all lanes' sums are there
    for (int c = lane; c < V; c += X) {
      float total = 0.0f, total_square = 0.0f;
      for (int i = 0; i < X; i++) {
        total += parts[i * V + c];
        total_square += parts[(X + i) * V + c];
      }
      sums[v * V + c] = total;
      squares[v * V + c] = total_square;
    }
    BARRIER_ALL();  // and read, before the next vector's take their place, and y that of x
  }

  vec centre[VECS], gain[VECS], shift[VECS];
  float means[SPAN], gains[SPAN], origins[SPAN];
  for (int v = 0; v < VECS; v++) STOREP(origins, v * V, origin[v]);
  const float count = (float)pixels;
  GROUP_STATISTICS(0, SPAN, per_group, count, sums, squares, origins, epsilon, means, gains)
  for (int v = 0; v < VECS; v++) {
    gain[v] = LOADP(gains, v * V) * LOADV(scale, first + v * V);
    shift[v] = LOADV(bias, first + v * V);
    ONE_CENTRE(centre[v], origin[v], LOADP(means, v * V), gain[v], shift[v])
  }

  for (int start = lane; start < pixels; start += RUN * X)
    for (int some = 0; some < VECS; some += ONCE)
      for (p = start; p < MIN(start + RUN * X, pixels); p += X) {
        vec z[ONCE];
        UNROLL
        for (int i = 0; i < ONCE; i++) {
          const int v = some + i;
          z[i] = FMA(LOADV(from[v], p * row[v]) - centre[v], gain[v], shift[v]);
        }
        ACTIVATE_EACH(z, ONCE)
        UNROLL
        for (int i = 0; i < ONCE; i++) STOREV(y, (item * pixels + p) * channels + first + (some + i) * V, z[i]);
      }
}
