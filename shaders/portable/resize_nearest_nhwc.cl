//: op    = "ResizeNhwc"
//: class = "portable"
//: caps  = []
//: why   = "Nearest neighbour, asymmetric, floor, whole pixels of c channels: output row y reads input row y * h / oh."
//: in    = ["x: bits[n, h, w, c]"]
//: out   = ["y: bits[n, oh, ow, c]"]
//: args  = ["n: int", "h: int", "w: int", "c: int", "oh: int", "ow: int"]
//: grid  = ["ow", "oh", "n"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: holds = ["oh * h < 2147483648", "ow * w < 2147483648"]

KERNEL(resize_nearest_nhwc)(IN(bits, x), OUT(bits, y), ARG(int, n), ARG(int, h), ARG(int, w), ARG(int, c), ARG(int, oh),
                            ARG(int, ow) GRID) {
  const int ox = GID(0), oy = GID(1), item = GID(2);
  if (ox >= ow || oy >= oh || item >= n) return;
  const int from = ((item * h + oy * h / oh) * w + ox * w / ow) * c, to = ((item * oh + oy) * ow + ox) * c;
  int i = 0;
  for (; i + V <= c; i += V) COPYV(y + to + i, x + from + i);
  for (; i < c; i++) y[to + i] = x[from + i];
}
