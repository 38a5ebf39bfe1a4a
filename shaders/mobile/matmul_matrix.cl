//: op    = ["MatMul", "Linear"]
//: class = "mobile"
//: caps  = ["matrix_unit"]
//: uses  = ["half", "matrix_unit"]
//: why   = """LANES work-items multiply small matrices in one instruction and keep float sums of ROWS by COLS. Those of
//:         a work-group share rows and quantized weights in local memory; other weights come from their panels."""
//: in    = [
//:   "a: stg[batch, m, k1]", "a2: stg[batch, m, k]", "b: wgt[batch, k, ldb]", "bias: stg[ldb]",
//:   "gate: stg[batch, n]", "residual: stg[batch, m, n]", "scales: scl[ldb]",
//: ]
//: out   = ["y: stg[batch, m, n]"]
//: args  = [
//:   "batch: int", "m: int", "n: int", "k: int", "k1: int", "ldb: int", "a_batch: int", "b_batch: int", "a_from: int",
//:   "y_from: int", "y_batch: int", "gate_from: int", "gate_row: int",
//: ]
//: grid  = ["ceil_div(ldb, COLS * X) * LANES * X", "ceil_div(m, ROWS * Y) * Y", "batch"]
//: group = ["LANES * X", "Y", "1"]
//: tune.V = [4]
//: tune.NV = [4]
//: tune.LANES = [32, 16, 64]
//: tune.ROWS = [32, 16, 64]
//: tune.COLS = [32, 16, 64]
//: tune.DEPTH = [32, 16]
//: tune.X = [2, 1]
//: tune.Y = [2, 1]
//: needs.constant = {min = 1}
//: needs.rows = {min = 64}
//: needs.n = {multiple = 4}
//: needs.k = {multiple = 8}
//: needs.k1 = {multiple = 4}
//: needs.gate_from = {multiple = 4}
//: needs.gate_row = {multiple = 4}
//: layout = {tune = ["V", "NV"], by = ["n", "k", "ACT_Geglu"], gives = ["ldb"]}
//: inplace = {residual = ""}
//: reach.a = "a_from + (batch - 1) * a_batch + m * k1"
//: reach.a2 = "SPLIT * m * (k - k1)"
//: reach.b = "((batch - 1) * b_batch + k * ldb) // (1 + W4)"
//: reach.bias = "HAS_BIAS * ldb"
//: reach.gate = "HAS_GATE * (gate_from + (batch - 1) * gate_row + n)"
//: reach.residual = "HAS_ADD * (y_from + (batch - 1) * y_batch + m * n)"
//: reach.y = "y_from + (batch - 1) * y_batch + m * n"
//: reach.scales = "W8 * ldb + W4 * ceil_div(k, 32) * ldb"
//: holds = [
//:   "k1 <= k", "(1 - SPLIT) * k <= k1", "a_batch % 4 == 0", "a_from % 4 == 0", "y_from % 4 == 0", "y_batch % 4 == 0",
//:   "b_batch % 16 == 0", "ldb % 16 == 0", "ceil_div(n, 16 - 8 * ACT_Geglu) * 16 <= ldb",
//:   "m + ROWS * Y < 2147483648", "W4 * b_batch == 0", "W8 + W4 <= 1",
//: ]

// Whether the left side is in two parts.
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef ACT_Geglu
#define ACT_Geglu 0
#endif
#define WIDE (V * NV)  // columns of a panel; with GEGLU half of them are values, and as many their gates
#define ITEMS (LANES * X * Y)
#define FOURS (DEPTH / 4)
#define LEFT_ROW (DEPTH + 8)  // not a power of two: rows stand in different banks
#define RIGHT_ROW (COLS * X + 8)
#define LINES 16  // rows of sums that go through local memory at a time, whole matrices
#define STAGED (W8 || W4 || (F16 && !HALF))  // what no unit reads from storage
#define OUTS (ACT_Geglu ? COLS / 2 : COLS)  // columns of y

KERNEL(matmul_matrix)(IN(stg, a), IN(stg, a2), IN(wgt, b), IN(stg, bias), IN(stg, gate), IN(stg, residual),
                      IN(scl, scales), OUT(stg, y), ARG(int, batch), ARG(int, m), ARG(int, n), ARG(int, k),
                      ARG(int, k1), ARG(int, ldb), ARG(int, a_batch), ARG(int, b_batch), ARG(int, a_from),
                      ARG(int, y_from), ARG(int, y_batch), ARG(int, gate_from), ARG(int, gate_row) GRID) {
  LOCAL(real4, left_fours, ROWS * Y * LEFT_ROW / 4);
#if STAGED
  LOCAL(real4, right_fours, DEPTH * RIGHT_ROW / 4);
#endif
  LOCAL(float, lines, X * Y * LINES * COLS);
  const int across = LID(0) / LANES, lane = LID(0) % LANES, own = LID(1) * LANES * X + LID(0), item = GID(2);
  const int top = (GID(1) - LID(1)) * ROWS, first = (GID(0) / LANES - across) * COLS, panels = ldb / WIDE;
  const LOCAL_PTR(real) left = (const LOCAL_PTR(real))left_fours + LID(1) * ROWS * LEFT_ROW;
  IN_PTR(wgt) right = WGT_AT(b, item * b_batch);

  mat_sum sum[ROWS / MAT_M][COLS / MAT_N];
  UNROLL
  for (int i = 0; i < ROWS / MAT_M; i++)
    UNROLL
    for (int v = 0; v < COLS / MAT_N; v++) MAT_ZERO(sum[i][v])

  for (int start = 0; start < k; start += DEPTH) {
    BARRIER();  // what is there was read
    // Rows past the last one repeat it, columns past the last panel those of that, and neither is stored; past k there
    // are zeros.
    for (int i = own; i < ROWS * Y * FOURS; i += ITEMS) {
      const int row = MIN(top + i / FOURS, m - 1), j = start + i % FOURS * 4;
      real4 four = RSPLAT(0.0f);
      if (j < k1) four = LOADR4(a, a_from + item * a_batch + row * k1 + j);
#if SPLIT
      if (j >= k1 && j < k) four = LOADR4(a2, row * (k - k1) + j - k1);
#endif
      left_fours[i / FOURS * (LEFT_ROW / 4) + i % FOURS] = four;
    }
#if STAGED
    for (int i = own; i < DEPTH * COLS * X / 4; i += ITEMS) {
      const int row = i / NV % DEPTH, j = start + row, panel = MIN(first / WIDE + i / NV / DEPTH, panels - 1);
      real4 four = RSPLAT(0.0f);
      if (j < k) four = LOADWR4(right, (panel * k + j) * WIDE + i % NV * 4);
#if W4
      if (j < k)
        four = four * TO_REAL4(LOADSV(scales, (panel * SCALE_BLOCKS(k) + j / SCALE_ROWS) * WIDE + i % NV * 4));
#endif
      right_fours[row * (RIGHT_ROW / 4) + i / NV / DEPTH * NV + i % NV] = four;
    }
#endif
    BARRIER();  // all of it is there
    for (int j = 0; j < MIN(DEPTH, k - start); j += MAT_K) {
      mat_left rows;
      mat_right columns[COLS / MAT_N];
      UNROLL
      for (int v = 0; v < COLS / MAT_N; v++) {
        const int col = across * COLS + v * MAT_N;
#if STAGED
        MAT_RIGHT(columns[v], (const LOCAL_PTR(real))right_fours + j * RIGHT_ROW + col, RIGHT_ROW)
#else
        const int panel = MIN((first + col) / WIDE, panels - 1);
        MAT_RIGHT_STG(columns[v], right + (panel * k + start + j) * WIDE + col % WIDE, WIDE)
#endif
      }
      UNROLL
      for (int i = 0; i < ROWS / MAT_M; i++) {
        MAT_LEFT(rows, left + i * MAT_M * LEFT_ROW + j, LEFT_ROW)
        UNROLL
        for (int v = 0; v < COLS / MAT_N; v++) MAT_MULTIPLY(sum[i][v], rows, columns[v])
      }
    }
  }

  // Sums go through local memory to work-items that finish four neighbours each.
  LOCAL_PTR(float) line = lines + (LID(1) * X + across) * LINES * COLS;
  for (int i = 0; i < ROWS; i += LINES) {
    BARRIER();  // the rows before were read
    UNROLL
    for (int l = 0; l < LINES; l += MAT_M)
      UNROLL
      for (int v = 0; v < COLS / MAT_N; v++) MAT_STORE(sum[(i + l) / MAT_M][v], line + l * COLS + v * MAT_N, COLS)
    BARRIER();  // these are there
    for (int j = lane; j < LINES * OUTS / 4; j += LANES) {
      const int row = top + LID(1) * ROWS + i + j / (OUTS / 4), c = j % (OUTS / 4) * 4;
      const int from = ACT_Geglu ? c / 8 * WIDE + c % 8 : c, at = first + across * COLS + from;
      const int col = ACT_Geglu ? (first + across * COLS) / 2 + c : at;
      if (row >= m || col >= n) continue;
      const int out = y_from + item * y_batch + row * n + col;
      vec z = LOADP(line, j / (OUTS / 4) * COLS + from);
      SCALE(z, at)
      ADD_BIAS(z, LOAD4, at)
#if ACT_Geglu
      vec beside = LOADP(line, j / (OUTS / 4) * COLS + from + 8);
      SCALE(beside, at + 8)
      ADD_BIAS(beside, LOAD4, at + 8)
      z = z * ACTIVATE(beside);
#else
      z = ACTIVATE(z);
#endif
      FINISH_ROW(z, LOAD4, gate_from + item * gate_row + col, out)
      STORE4(y, out, z);
    }
  }
}
