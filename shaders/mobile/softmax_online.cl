//: op    = ["Attention", "MaskedAttention"]
//: class = "mobile"
//: caps  = []
//: uses  = ["subgroups"]
//: after = "attention_scores_tiles"
//: why   = """A row's maximum and one over its sum of exponentials, for the product that follows (paper 3.2): X
//:         work-items share a row, or several short ones, and read it once."""
//: in    = ["x: stg[rows, cols]"]
//: out   = ["stats: f32[rows, 2]"]
//: args  = ["rows: int", "cols: int"]
//: grid  = ["ceil_div(rows, X // min(X, ceil_div(cols, 4))) * X", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 32, 128, 256]}
//: needs = {}

KERNEL(softmax_online)(IN(stg, x), OUT(float, stats), ARG(int, rows), ARG(int, cols) GRID) {
  LOCAL(float, lanes, X);
  const int share = MIN(X, (cols + 3) / 4), each = X / share;  // work-items per row, rows per work-group
  const int lane = LID(0) % share, row = GID(0) / X * each + LID(0) / share;
  const bool live = LID(0) / share < each && row < rows;  // the others wait with the rest
  const int start = live ? row * cols : 0, last = live ? cols : 0, whole = last - last % 4;

  // Start from LOWEST, not -inf: a masked score is -inf, and (-inf) - (-inf) is NaN.
  float top = LOWEST, sum = 0.0f;
  for (int i = lane * 4; i < whole; i += share * 4) {
    const vec scores = LOADV(x, start + i);
    const float high = FMAX(FMAX(FMAX(top, scores.x), scores.y), FMAX(FMAX(top, scores.z), scores.w));
    // what was summed so far shrinks as the maximum grows
    sum = sum * EXP2((top - high) * LOG2_E) + LANE_SUM(EXP2((scores - high) * LOG2_E));
    top = high;
  }
  for (int i = whole + lane; i < last; i += share) {
    const float score = LOAD(x, start + i), high = FMAX(top, score);
    sum = sum * EXP2((top - high) * LOG2_E) + EXP2((score - high) * LOG2_E);
    top = high;
  }
  float high, total;
  PART_MAX(high, top, lanes, share)
  PART_SUM(total, sum * EXP2((top - high) * LOG2_E), lanes, share)
  if (live && lane == 0) {
    stats[2 * row] = high;
    stats[2 * row + 1] = total == 0.0f ? 0.0f : 1.0f / total;  // masked everywhere: it attends to nothing
  }
}
