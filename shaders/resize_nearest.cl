//: op    = "Resize"
//: why   = "Nearest neighbour, asymmetric, floor: output row y reads input row y * h / oh."
//: in    = ["x: stg[n, h, w]"]
//: out   = ["y: stg[n, oh, ow]"]
//: args  = ["n: int", "h: int", "w: int", "oh: int", "ow: int"]
//: grid  = ["ceil_div(ow, STEPS)", "oh", "n"]
//: group = ["X", "1", "1"]
//: tune  = {STEPS = [64, 1, 8], X = [1, 64]}
//: needs = {}

KERNEL(resize_nearest)(IN(stg, x), OUT(stg, y), ARG(int, n), ARG(int, h), ARG(int, w), ARG(int, oh), ARG(int, ow) GRID) {
  const int first = GID(0) * STEPS, oy = GID(1), plane = GID(2);
  if (first >= ow || oy >= oh || plane >= n) return;
  const int last = MIN(first + STEPS, ow);
  IN_PTR(stg) row = x + (plane * h + oy * h / oh) * w;
  const int out = (plane * oh + oy) * ow;
  for (int i = first; i < last; i++) STORE(y, out + i, LOAD(row, i * w / ow));
}
