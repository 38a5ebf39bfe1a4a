//: op    = "Resize"
//: class = "portable"
//: caps  = []
//: why   = "Nearest neighbour, asymmetric, floor: output row y reads input row y * h / oh."
//: in    = ["x: bits[n, h, w]"]
//: out   = ["y: bits[n, oh, ow]"]
//: args  = ["n: int", "h: int", "w: int", "oh: int", "ow: int"]
//: grid  = ["ceil_div(ow, STEPS)", "oh", "n"]
//: group = ["X", "1", "1"]
//: tune  = {STEPS = [64, 4, 1], X = [1, 64]}
//: needs = {}
//: holds = ["oh * h < 2147483648", "ow * w < 2147483648"]

KERNEL(resize_nearest)(IN(bits, x), OUT(bits, y), ARG(int, n), ARG(int, h), ARG(int, w), ARG(int, oh),
                       ARG(int, ow) GRID) {
  const int first = GID(0) * STEPS, oy = GID(1), plane = GID(2);
  if (first >= ow || oy >= oh || plane >= n) return;
  const int last = MIN(first + STEPS, ow), out = (plane * oh + oy) * ow;
  IN_PTR(bits) row = x + (plane * h + oy * h / oh) * w;

  if (ow == 2 * w) {  // what the networks ask for
    for (int i = first; i < last; i++) y[out + i] = row[i / 2];
    return;
  }

  // i * w / ow without a division per element: the quotient, and the remainder that carries into it.
  const int whole = w / ow, part = w % ow;
  int ix = first * w / ow, carry = first * w % ow;
  for (int i = first; i < last; i++) {
    y[out + i] = row[ix];
    ix += whole;
    carry += part;
    if (carry >= ow) {
      carry -= ow;
      ix++;
    }
  }
}
