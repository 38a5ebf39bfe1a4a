//: op    = "WinogradTaps"
//: class = "portable"
//: caps  = []
//: why   = """G g G^T (paper 3.3) of taps in few bits, before each use: stored transformed they would take four times the
//:         bytes, and need more bits. A work-item has V channels out of one channel in; panels stay panels."""
//: in    = ["weight: wgt[panels, 9 * ic, wide]", "scales: scl[panels, wide]"]
//: out   = ["y: stg[36, panels, ic, wide]"]
//: args  = ["panels: int", "ic: int", "wide: int"]
//: grid  = ["ic * (wide // V)", "panels", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], X = [1, 64]}
//: needs = {}
//: reach.weight = "9 * panels * ic * wide // (1 + W4)"
//: reach.scales = "(W8 + W4 * ceil_div(9 * ic, 32)) * panels * wide"
//: holds = ["wide % V == 0", "W8 + W4 <= 1"]

#if W4
#define SCALES_OF(t) (panel * SCALE_BLOCKS(9 * ic) + ((t) * ic + c) / SCALE_ROWS)
#else
#define SCALES_OF(t) panel
#endif
#if W4 || W8
#define TAP(t, j) (LOADWV(weight, ((panel * 9 + (t)) * ic + c) * wide + column) * LOADSV(scales, SCALES_OF(t) * wide + column))
#else
#define TAP(t, j) LOADWV(weight, ((panel * 9 + (t)) * ic + c) * wide + column)
#endif

KERNEL(winograd_taps)(IN(wgt, weight), IN(scl, scales), OUT(stg, y), ARG(int, panels), ARG(int, ic),
                      ARG(int, wide) GRID) {
  const int vectors = wide / V, c = GID(0) / vectors, column = GID(0) % vectors * V, panel = GID(1);
  if (c >= ic || panel >= panels) return;
  for (int pair = 0; pair < 3; pair++) {
#define KEEP(q, z, j) STOREV(y, ((WINOGRAD_PRODUCT(pair, q) * panels + panel) * ic + c) * wide + column, z);
    WINOGRAD_TAP_PAIR(KEEP, TAP, 0, pair)
  }
}
